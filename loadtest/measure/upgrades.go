package measure

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/control"
	"ztunnel/loadtest/mesh"
	"ztunnel/proxy/api/securityapi"
)

const (
	// upgradeDrain is how long the connections of a ztunnel that is replaced may
	// go on. The reference's default is 5 s; this leaves time for more rounds.
	upgradeDrain = 2 * time.Second
	// upgradeLimit is how long each step of an upgrade may take.
	upgradeLimit = 15 * time.Second
	// idlers is how many pods of each node have an idle tunnel in each round.
	idlers = 4
)

// upgrades is a running measure of upgrades.
type upgrades struct {
	*bed
	*tally
	rounds  int
	dir     string
	clients [2]*cluster.Pod
	servers [2]*cluster.Pod
	idle    [2][]*cluster.Pod
	reader  *cluster.Pod // of telemetry, on the first node
	ready   []float64    // ms from the start of a process until it is ready
	drains  []float64    // ms from SIGTERM until the end
}

// Upgrades replaces the ztunnels of both nodes in turn, as many times as
// Config.Rounds says, while pods use them: a new process starts beside the old
// one, gets the pods from the node agent, and when it is ready the old one gets
// SIGTERM. Meanwhile
//
//   - new connections for a short exchange are made at Config.Rate a second, by
//     the clock and not one after the other, across nodes and within one;
//   - pods whose tunnel has been idle use it at some moment of the drain;
//   - connections stay open and exchange a few bytes now and then. These may end
//     at the deadline of the drain, which is counted as forced, and not before;
//   - pods ask for the address of a service, over UDP;
//   - admin and metrics of the process that drains are read until it ends.
//
// All is well if nothing was lost and the draining process could always be read.
func Upgrades(ctx context.Context, c Config) (*Result, error) {
	b, err := newBed(ctx, c, setting{env: map[string]string{"CONNECTION_TERMINATION_DEADLINE": upgradeDrain.String()}})
	if err != nil {
		return nil, err
	}
	defer b.Close() //nolint:errcheck // the figures are there
	u := &upgrades{bed: b, tally: newTally(c.Out), rounds: c.Rounds, dir: c.Dir}
	if err := u.populate(ctx); err != nil {
		return nil, err
	}
	loading, stop := context.WithCancel(ctx)
	var load sync.WaitGroup
	load.Go(func() { u.call(loading, c.Rate) })
	load.Go(func() { u.resolve(loading) })
	for _, r := range u.routes() {
		load.Go(func() { u.hold(loading, r) })
	}
	for round := range u.rounds {
		if err = u.upgrade(ctx, round%2); err != nil {
			err = fmt.Errorf("upgrade %d: %w", round+1, err)
			break
		}
		if (round+1)%20 == 0 {
			fmt.Fprintf(u.bed.out, "  %d upgrades: %s\n", round+1, u.summary())
		}
	}
	stop()
	load.Wait()
	if err != nil {
		return nil, err
	}
	return u.result(), nil
}

// populate adds the pods that the bed does not have.
func (u *upgrades) populate(ctx context.Context) error {
	add := func(node int, namespace, account string) (*cluster.Pod, error) {
		return u.nodes[node].AddPod(ctx, cluster.Spec{Name: account + "-0", ID: identity(namespace, account)})
	}
	u.clients[0], u.servers[1] = u.client, u.server
	var err error
	if u.clients[1], err = add(1, "clients", "client-far"); err != nil {
		return err
	}
	if u.servers[0], err = add(0, "servers", "server-near"); err != nil {
		return err
	}
	if u.reader, err = add(0, "monitoring", "reader"); err != nil {
		return err
	}
	for node := range u.idle {
		for i := range idlers {
			pod, err := add(node, "clients", fmt.Sprintf("idle-%d-%d", node, i))
			if err != nil {
				return err
			}
			u.idle[node] = append(u.idle[node], pod)
		}
	}
	if err := u.Apps.Echo(ctx, u.servers[0].Namespace, echoTarget); err != nil {
		return err
	}
	err = u.Plane.Update(control.Update{Policies: []*securityapi.Authorization{control.AllowPolicy(control.PolicySpec{
		Namespace: cluster.ZtunnelID.Namespace, Name: "metrics", Ports: []uint16{mesh.MetricsPort}, Principals: []string{u.reader.ID.Principal()},
	})}})
	if err != nil {
		return err
	}
	if _, err := u.settle(ctx); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for _, client := range u.clients {
		if err := app.Retry(limited, pollEvery, func() error { return u.lookup(limited, client) }); err != nil {
			return err
		}
	}
	for _, r := range u.routes() {
		if err := app.Retry(limited, pollEvery, func() error { return r.say(limited) }); err != nil {
			return err
		}
	}
	return nil
}

// route is a way that traffic takes.
type route struct {
	from *cluster.Pod
	to   netip.AddrPort
}

func (r route) say(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := app.Say(ctx, r.from.Namespace, r.to, []byte("hello"))
	return err
}

// routes are by way of the service and of a pod's address, between the nodes in
// both directions and within one.
func (u *upgrades) routes() []route {
	return []route{
		{u.clients[0], serviceAddr},
		{u.clients[1], netip.AddrPortFrom(u.servers[0].Addr, echoTarget)},
		{u.clients[1], serviceAddr},
	}
}

// call makes connections by the clock until ctx ends, and waits for them.
func (u *upgrades) call(ctx context.Context, rate int) {
	var calls sync.WaitGroup
	defer calls.Wait()
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	routes := u.routes()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r := routes[n%len(routes)]
		calls.Go(func() { u.short(func() error { return r.say(context.WithoutCancel(ctx)) }) })
	}
}

// hold keeps a connection open, and opens another one when it has ended.
func (u *upgrades) hold(ctx context.Context, r route) {
	tick := time.NewTicker(callEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		session, err := app.Open(ctx, r.from.Namespace, r.to)
		if err != nil && ctx.Err() != nil {
			return
		}
		if !u.opened(err) {
			<-tick.C
			continue
		}
		for err == nil && ctx.Err() == nil {
			select {
			case <-tick.C:
				err = session.Ping()
			case <-ctx.Done():
			}
		}
		u.ended(session, err)
		session.Close()
	}
}

// upgrade replaces the ztunnel of a node.
func (u *upgrades) upgrade(ctx context.Context, node int) error {
	ctx, cancel := context.WithTimeout(ctx, 4*upgradeLimit)
	defer cancel()
	var idle sync.WaitGroup
	defer idle.Wait()
	for _, r := range u.idleRoutes() {
		u.use("before an idle time", r.say(ctx))
	}
	start := time.Now()
	next, err := u.nodes[node].StartZtunnel()
	if err != nil {
		return err
	}
	limited, cancelReady := context.WithTimeout(ctx, upgradeLimit)
	defer cancelReady()
	if err := next.AwaitReady(limited); err != nil {
		return err
	}
	old := u.ztunnels[node]
	u.ztunnels[node] = next
	u.ready = append(u.ready, float64(time.Since(start).Milliseconds()))
	start = time.Now()
	u.drainBegins(old.Name, start)
	for _, r := range u.idleRoutes() {
		idle.Go(func() { u.useLater(ctx, r) })
	}
	if err := old.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	var reading sync.WaitGroup
	reading.Go(func() { u.readAdmin(ctx, old) })
	reading.Go(func() { u.readMetrics(ctx, old) })
	limited, cancelEnd := context.WithTimeout(ctx, upgradeLimit)
	defer cancelEnd()
	if err := old.Wait(limited); err != nil {
		return fmt.Errorf("the end of %s: %w", old.Name, err)
	}
	u.drainEnds(time.Now())
	u.drains = append(u.drains, float64(time.Since(start).Milliseconds()))
	reading.Wait()
	idle.Wait()
	u.countForced(old)
	return errors.Join(u.nodes[node].Retire(ctx, old), os.Remove(old.Log.Path))
}

// idleRoutes are those of the pods with an idle tunnel, to the other node.
func (u *upgrades) idleRoutes() []route {
	var all []route
	for node := range u.idle {
		for _, pod := range u.idle[node] {
			all = append(all, route{pod, netip.AddrPortFrom(u.servers[1-node].Addr, echoTarget)})
		}
	}
	return all
}

// useLater uses an idle tunnel at a moment of the drain, or just after it. Half
// of the moments are at its begin, where most is changing.
func (u *upgrades) useLater(ctx context.Context, r route) {
	at := rand.N(upgradeDrain + 200*time.Millisecond)
	if rand.N(2) == 0 {
		at = rand.N(200 * time.Millisecond)
	}
	timer := time.NewTimer(at)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	u.use("on an idle tunnel", r.say(ctx))
}

// forcedLine is how a ztunnel tells that a drain's deadline has passed, and
// connections how many there were, if it says so.
var (
	forcedLine        = regexp.MustCompile(`drain duration expired with pending connections`)
	forcedConnections = regexp.MustCompile(`\bconnections=(\d+)`)
)

// countForced counts what a ztunnel that has ended says about its drain.
func (u *upgrades) countForced(old *cluster.Ztunnel) {
	for _, line := range old.Log.Tail(200) {
		if !forcedLine.MatchString(line) {
			continue
		}
		u.forcedDrains++
		if m := forcedConnections.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[1]) // digits
			u.forcedTold += n
		}
	}
}

// result is what there is to say at the end.
func (u *upgrades) result() *Result {
	fmt.Fprintf(u.bed.out, "  %d upgrades, ready after %.0f ms, ended %.0f ms after SIGTERM (medians): %s\n", u.rounds, middle(u.ready), middle(u.drains), u.summary())
	r := u.tally.result()
	r.Measure = "upgrades"
	r.Figures["upgrades"] = float64(u.rounds)
	r.Figures["ready_ms"], r.Figures["drain_ms"] = middle(u.ready), middle(u.drains)
	return r
}
