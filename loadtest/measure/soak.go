package measure

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
)

const (
	// certTTL is the life of certificates in a soak.
	certTTL = time.Minute
	// restartEvery is how often the control plane restarts, outage how long it is
	// away.
	restartEvery, outage = 2 * time.Minute, 2 * time.Second
	// churnEvery is how often a pod comes, and another goes once there are guests
	// enough.
	churnEvery, guestCount = time.Second, 6
	// accounts is how many identities the guests have, in turn.
	accounts = 40
	// callEvery is how often a connection is made for a short exchange.
	callEvery = 50 * time.Millisecond
	// callLimit is how long such an exchange, or a ping, may take.
	callLimit = 5 * time.Second
	// guestLimit is how long a new pod may take to be served: a ztunnel may wait
	// a while before it connects to a control plane again that was away.
	guestLimit = 30 * time.Second
	// samples are taken this often in a run, and not more often than sampleLeast.
	sampleParts, sampleLeast = 60, 2 * time.Second
)

// soak is a running soak.
type soak struct {
	*bed
	start time.Time

	mu       sync.Mutex
	requests int // exchanges, pings and changes
	pods     int // that came
	restarts int
	back     time.Time     // when the control plane came back
	slowest  time.Duration // from the first try of a new pod to its first success
	slowBack time.Duration // of the slowest pod's first try since back
	failed   int

	guests  []*guest // oldest first; of the goroutine that churns
	samples [2][]sample
}

// guest is a pod that comes and goes, with its application.
type guest struct {
	*cluster.Pod
	apps app.Apps
}

// maxFailures is how many failures are told of.
const maxFailures = 10

// Soak runs a mesh for long: pods come and go every second, certificates live a
// minute, the control plane restarts every two minutes, and connections are made
// and kept all the time. It prints what the ztunnels have at intervals, and
// returns whether nothing failed that should have worked, and nothing grew. The
// end of ctx ends it early.
func Soak(ctx context.Context, c Config) (bool, error) {
	b, err := newBed(ctx, c, setting{ttl: certTTL})
	if err != nil {
		return false, err
	}
	defer b.Close() //nolint:errcheck // the figures are there
	s := &soak{bed: b, start: time.Now(), back: time.Now()}
	// Not a deadline, which dialers look at by themselves and a little early: what
	// it ends must be told from what fails.
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	end := time.AfterFunc(c.For, cancel)
	defer end.Stop()
	var running sync.WaitGroup
	for _, work := range []func(context.Context){s.churn, s.call, s.hold} {
		running.Go(func() { work(limited) })
	}
	fmt.Fprintf(b.out, "%8s %6s %8s %9s %6s   %s\n", "time", "pods", "restarts", "requests", "failed", "each ztunnel: goroutines, descriptors, RSS")
	err = s.watch(limited, max(sampleLeast, c.For/sampleParts))
	cancel()
	running.Wait()
	for _, g := range s.guests {
		g.apps.Close()
	}
	return s.verdict(), err
}

// churn adds and removes pods, and restarts the control plane between them.
func (s *soak) churn(ctx context.Context) {
	restart := time.Now().Add(restartEvery)
	s.every(ctx, churnEvery, func() {
		if time.Now().After(restart) {
			restart = restart.Add(restartEvery)
			s.try(ctx, "restart the control plane", s.restart(ctx))
		}
		s.try(ctx, "a new pod", s.arrive(ctx))
		if len(s.guests) > guestCount {
			oldest := s.guests[0]
			s.guests = s.guests[1:]
			oldest.apps.Close()
			s.try(ctx, "remove a pod", oldest.Remove(context.WithoutCancel(ctx)))
		}
	})
}

// every does something at once and then at intervals until ctx ends.
func (s *soak) every(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		do()
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// try counts a failure, unless the end of the soak is its reason.
func (s *soak) try(ctx context.Context, what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if err == nil || ctx.Err() != nil {
		return
	}
	if s.failed++; s.failed <= maxFailures {
		fmt.Fprintf(s.out, "after %s: %s: %v\n", time.Since(s.start).Round(time.Millisecond), what, err)
	}
}

// restart takes the control plane away for a while.
func (s *soak) restart(ctx context.Context) error {
	if err := s.StopControlPlane(); err != nil {
		return err
	}
	away := time.NewTimer(outage)
	defer away.Stop()
	select {
	case <-away.C:
	case <-ctx.Done():
	}
	err := s.StartControlPlane()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restarts++
	s.back = time.Now()
	return err
}

// arrive adds a pod that is a client and a server, and waits until it is both.
// Without its identity it could be neither.
func (s *soak) arrive(ctx context.Context) error {
	s.mu.Lock()
	s.pods++
	number := s.pods
	s.mu.Unlock()
	node := s.nodes[number%len(s.nodes)]
	pod, err := node.AddPod(ctx, cluster.Spec{Name: fmt.Sprintf("guest-%d", number), ID: identity("clients", fmt.Sprintf("guest-%d", number%accounts))})
	if err != nil {
		return err
	}
	g := &guest{Pod: pod}
	s.guests = append(s.guests, g)
	if err := g.apps.Echo(ctx, g.Namespace, echoTarget); err != nil {
		return err
	}
	start := time.Now()
	for _, exchange := range []func() error{
		func() error { return s.say(ctx, g.Pod, serviceAddr) },
		func() error { return s.say(ctx, s.client, netip.AddrPortFrom(g.Addr, echoTarget)) },
	} {
		limited, cancel := context.WithTimeout(ctx, guestLimit)
		err := app.Retry(limited, 20*pollEvery, exchange)
		cancel()
		if err != nil {
			return fmt.Errorf("%s is not served after %s: %w", g.Name, guestLimit, err)
		}
	}
	s.served(start)
	return nil
}

// served notes that a new pod is served, which was tried first at start.
func (s *soak) served(start time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if took := time.Since(start); took > s.slowest {
		s.slowest, s.slowBack = took, start.Sub(s.back)
	}
}

func (s *soak) say(ctx context.Context, from *cluster.Pod, to netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := app.Say(ctx, from.Namespace, to, []byte("hello"))
	return err
}

// call makes connections of a short exchange, which always should work: also
// while the control plane is away.
func (s *soak) call(ctx context.Context) {
	s.every(ctx, callEvery, func() { s.try(ctx, "a new connection", s.say(ctx, s.client, serviceAddr)) })
}

// hold keeps one connection, which should live as long as its pods.
func (s *soak) hold(ctx context.Context) {
	for ctx.Err() == nil {
		session, err := app.Open(ctx, s.client.Namespace, serviceAddr)
		s.try(ctx, "a connection that stays", err)
		if err != nil {
			continue
		}
		broken, stop := context.WithCancel(ctx)
		s.every(broken, callEvery, func() {
			err := session.Ping()
			s.try(ctx, "a connection that stays", err)
			if err != nil {
				stop()
			}
		})
		stop()
		session.Close()
	}
}

// watch prints what there is until ctx ends. The error is that a ztunnel is
// gone.
func (s *soak) watch(ctx context.Context, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ztunnels[0].Ended():
			return errors.New("the ztunnel of node-1 has ended")
		case <-s.ztunnels[1].Ended():
			return errors.New("the ztunnel of node-2 has ended")
		case <-tick.C:
		}
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// look takes a sample of each ztunnel and prints them.
func (s *soak) look(ctx context.Context) error {
	var has [2]sample
	for i, z := range s.ztunnels {
		var err error
		if has[i], err = take(ctx, z); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // what was asked may be incomplete
	}
	for i := range has {
		s.samples[i] = append(s.samples[i], has[i])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, "%8s %6d %8d %9d %6d   %s | %s\n", time.Since(s.start).Round(time.Second), s.pods, s.restarts, s.requests, s.failed, has[0], has[1])
	return nil
}

// verdict prints what went wrong, and returns whether nothing did.
func (s *soak) verdict() bool {
	ok := s.failed == 0
	for i, z := range s.ztunnels {
		if len(s.samples[i]) < fewest {
			fmt.Fprintf(s.out, "%s: %d samples are too few to tell growth\n", z.Name, len(s.samples[i]))
		}
		for _, grown := range growth(s.samples[i]) {
			fmt.Fprintf(s.out, "%s: %s\n", z.Name, grown)
			ok = false
		}
	}
	stats := s.Plane.Stats()
	fmt.Fprintf(s.out, "%d pods came, the slowest was served after %d ms, tried %d ms after the control plane had come; %d restarts of the control plane; %d certificates signed, %d refused; %d rejections; %d requests, %d failed\n",
		s.pods, s.slowest.Milliseconds(), s.slowBack.Milliseconds(), s.restarts, stats.Certificates, stats.Refused, stats.Nacks, s.requests, s.failed)
	return ok
}
