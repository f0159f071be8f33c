package interop

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/console"
	"ztunnel/loadtest/control"
)

// crowd is how many connections are made at the same time.
const crowd = 8

// connected is what became of connections.
type connected struct{ made, lost int }

func (c connected) String() string {
	if c.lost > 0 {
		return fmt.Sprintf("%d connections were made, %d were lost, which this ztunnel does not rule out", c.made, c.lost)
	}
	return fmt.Sprintf("%d connections were made, none was lost", c.made)
}

// connect makes connections one after the other, several at a time, until stop
// says so. One that is lost is an error, and the last, unless the ztunnel claims
// nothing else.
func (w *world) connect(ctx context.Context, stop func() bool) (connected, error) {
	var made, lost atomic.Int64
	var running sync.WaitGroup
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	for range crowd {
		running.Go(func() {
			for ctx.Err() == nil && !stop() {
				_, err := app.Say(ctx, w.shop.Namespace, w.keeperVIP, []byte("hello"))
				switch {
				case err == nil:
					made.Add(1)
				case w.cfg.Own:
					fail(fmt.Errorf("after %d connections: %w", made.Load(), err))
				default:
					lost.Add(1)
				}
			}
		})
	}
	running.Wait()
	return connected{int(made.Load()), int(lost.Load())}, context.Cause(ctx)
}

// drain drains the waypoint as at the end of its pod, and replaces it, while a
// connection over it is open and others are made all the time.
func (w *world) drain(ctx context.Context) (string, error) {
	old, err := w.open(ctx, w.keeperVIP)
	if err != nil {
		return "", err
	}
	var others connected
	var connecting error
	var running sync.WaitGroup
	var enough atomic.Bool
	running.Go(func() { others, connecting = w.connect(ctx, enough.Load) })
	figure, err := w.replace(ctx)
	enough.Store(true)
	running.Wait()
	if connecting != nil {
		connecting = fmt.Errorf("connections while the waypoint was replaced: %w", connecting)
	}
	if err := errors.Join(err, connecting); err != nil {
		return "", err
	}
	start := time.Now()
	if err := old.Ping(); err != nil {
		return "", fmt.Errorf("the connection that was open over the old waypoint: %w", err)
	}
	if err := old.Finish(); err != nil {
		return "", fmt.Errorf("the connection that was open over the old waypoint: %w", err)
	}
	if err := w.end(ctx, w.first); err != nil {
		return "", err
	}
	if _, err := app.Say(ctx, w.shop.Namespace, w.keeperVIP, []byte("hello")); err != nil {
		return "", fmt.Errorf("after the end of the old waypoint: %w", err)
	}
	return fmt.Sprintf("%s\nmeanwhile %s; the one from before ended in order %s later", figure, others, since(start)), nil
}

// replace drains the waypoint, adds another one and takes the first away.
func (w *world) replace(ctx context.Context) (string, error) {
	before, err := w.first.stats(ctx)
	if err != nil {
		return "", err
	}
	start := time.Now()
	if _, err := w.first.ask(ctx, http.MethodPost, "/drain_listeners?graceful"); err != nil {
		return "", err
	}
	// Each tunnel is told to end with the answer to its next request.
	limited, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	var now stats
	if err := app.Retry(limited, pollEvery, func() error {
		if now, err = w.first.stats(ctx); err == nil && now[tunnelsDrained]-before[tunnelsDrained] < crowd {
			err = fmt.Errorf("%d tunnels were drained", now[tunnelsDrained]-before[tunnelsDrained])
		}
		return err
	}); err != nil {
		return "", err
	}
	drained := since(start)
	if w.current, err = w.addWaypoint(ctx, "waypoint-2", requestsPerTunnel); err != nil {
		return "", err
	}
	if err := w.cluster.Plane.Update(control.Update{Remove: control.Names{Workloads: []string{w.first.pod.UID}}}); err != nil {
		return "", err
	}
	if err := w.settle(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("Envoy sent GOAWAY on %d tunnels within %s, while ztunnel opened %d others; then a second Envoy took its place",
		now[tunnelsDrained]-before[tunnelsDrained], drained, now[tunnelsIn]-before[tunnelsIn]), nil
}

// end ends an Envoy as its pod's end does.
func (w *world) end(ctx context.Context, e *envoy) error {
	if err := e.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, envoyLimit)
	defer cancel()
	if err := e.Wait(ctx); err != nil {
		return fmt.Errorf("end of Envoy %s: %w", e.pod.Name, err)
	}
	return e.pod.Pod.Remove()
}

// requestsPerTunnel is what the second waypoint allows.
const requestsPerTunnel = 50

// Connections are made in batches, until a request had to be sent again; there
// is a limit to how many.
const (
	retryBatch = 500
	retryLimit = 20_000
)

// retry makes connections over a waypoint that ends each tunnel after some
// requests, at once. What it has not taken then must be sent again.
func (w *world) retry(ctx context.Context) (string, error) {
	if !w.cfg.Own {
		return "", &console.SkipError{Why: "not claimed by this ztunnel, which never repeats a request"}
	}
	// Each request checks out a tunnel, and once more if it is sent again.
	checkouts := func() (float64, error) {
		hits, err := sum(ctx, w.client(), "istio_ztunnel_hbone_pool_hits_total", nil)
		if err != nil {
			return 0, err
		}
		misses, err := sum(ctx, w.client(), "istio_ztunnel_hbone_pool_misses_total", nil)
		return hits + misses, err
	}
	before, err := checkouts()
	if err != nil {
		return "", err
	}
	was, err := w.current.stats(ctx)
	if err != nil {
		return "", err
	}
	start, made, again := time.Now(), 0, 0
	for again == 0 && made < retryLimit {
		var count atomic.Int64
		n, err := w.connect(ctx, func() bool { return count.Add(1) > retryBatch })
		if err != nil {
			return "", err
		}
		made += n.made
		after, err := checkouts()
		if err != nil {
			return "", err
		}
		again = int(after-before) - made
	}
	now, err := w.current.stats(ctx)
	if err != nil {
		return "", err
	}
	figure := fmt.Sprintf("%d connections in %s, %d at a time, none lost; Envoy ended %d tunnels after %d requests each",
		made, since(start), crowd, now[tunnelsFull]-was[tunnelsFull], requestsPerTunnel)
	if again == 0 {
		return "", fmt.Errorf("no request was sent again: %s", figure)
	}
	return fmt.Sprintf("%s; %d requests that it did not take any more were sent again", figure, again), nil
}

// restart kills the waypoint and starts it again. Meanwhile nothing may go
// around it; then the first connection must be served, on a new tunnel.
func (w *world) restart(ctx context.Context) (string, error) {
	s, err := w.open(ctx, w.keeperVIP)
	if err != nil {
		return "", err
	}
	start := time.Now()
	if err := w.current.Close(); err != nil {
		return "", err
	}
	cut, err := app.UntilCut(s, start, awaitLimit)
	if err != nil {
		return "", err
	}
	at := w.client().Log.Len()
	after, err := refused(ctx, w.shop.Namespace, w.keeperVIP)
	if err != nil {
		return "", err
	}
	line, err := awaitLine(ctx, w.client().Name, w.client().Log, at, fields{
		"direction=outbound", "dst.addr=" + w.hbone(w.current.pod), "dst.hbone_addr=" + w.keeperVIP.String(), "error=…",
	})
	if err != nil {
		return "", err
	}
	if w.current, err = w.runWaypoint(ctx, w.current.pod, 0); err != nil {
		return "", err
	}
	done, err := app.Say(ctx, w.shop.Namespace, w.keeperVIP, []byte("hello"))
	if err != nil {
		return "", fmt.Errorf("after the start of the waypoint: %w", err)
	}
	return fmt.Sprintf("an open connection ended after %s; a new one after %s (%s); the first one after the start took %s",
		console.Took(cut), console.Took(after), value(line, "error"), console.Took(done.Took)), nil
}
