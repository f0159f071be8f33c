package show

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/console"
	"ztunnel/loadtest/control"
	"ztunnel/loadtest/mesh"
	"ztunnel/proxy/api/securityapi"
)

// cutLimit is how long a change may take to have its effect.
const cutLimit = 10 * time.Second

// flow is a session on which pings go to and fro without a pause.
type flow struct {
	*app.Session
	busy  chan struct{} // closed after enoughPings
	ended chan struct{}
	err   error // why it ended, and when; set before ended is closed
	at    time.Time
}

// flowing opens a session from the shop to the stock and keeps it busy until it
// breaks.
func (w *world) flowing(ctx context.Context) (*flow, error) {
	s, err := app.Open(ctx, w.shopper.Namespace, w.services()[0])
	if err != nil {
		return nil, err
	}
	f := &flow{Session: s, busy: make(chan struct{}), ended: make(chan struct{})}
	go func() { // stop waits for it
		defer close(f.ended)
		for f.err == nil {
			if f.err = s.Ping(); f.err == nil && s.Pings == enoughPings {
				close(f.busy)
			}
		}
		f.at = time.Now()
	}()
	select {
	case <-f.busy:
		return f, nil
	case <-f.ended:
		s.Close()
		return nil, fmt.Errorf("a user's connection: %w", f.err)
	}
}

// enoughPings show that a session flows.
const enoughPings = 100

// stop ends the flow, if it has not ended, and waits for it.
func (f *flow) stop() {
	f.Close()
	<-f.ended
}

// untilCut waits until the flow breaks and tells how long after start that was.
func (f *flow) untilCut(start time.Time) (time.Duration, error) {
	limit := time.NewTimer(cutLimit)
	defer limit.Stop()
	select {
	case <-f.ended:
		if !app.Refused(f.err) && !errors.Is(f.err, io.EOF) {
			return 0, f.err
		}
		return f.at.Sub(start), nil
	case <-limit.C:
		return 0, fmt.Errorf("not cut after %s", cutLimit)
	}
}

// deny changes the policies so that nobody may connect to the stock any more, nor
// read metrics, while connections are open, and measures how long they stay so.
func (w *world) deny(ctx context.Context) (string, error) {
	user, err := w.flowing(ctx)
	if err != nil {
		return "", err
	}
	defer user.stop()
	reader, err := w.openReader(ctx)
	if err != nil {
		return "", err
	}
	defer reader.Close()

	start := time.Now()
	if err := w.cluster.Plane.Update(control.Update{Policies: []*securityapi.Authorization{
		control.DenyPolicy(control.PolicySpec{Namespace: "stock", Name: "nobody", Ports: []uint16{echoTarget, webTarget}}),
		control.DenyPolicy(control.PolicySpec{Namespace: cluster.ZtunnelID.Namespace, Name: "nobody", Ports: []uint16{mesh.MetricsPort}}),
	}}); err != nil {
		return "", err
	}
	back := control.Update{Remove: control.Names{Policies: []string{"stock/nobody", cluster.ZtunnelID.Namespace + "/nobody"}}}
	defer w.cluster.Plane.Update(back) //nolint:errcheck // the second time; the first is below
	cut, err := user.untilCut(start)
	if err != nil {
		return "", fmt.Errorf("a user's connection: %w", err)
	}
	figure := fmt.Sprintf("a user's connection, after %d pings, %s after the change", user.Pings, console.Took(cut))
	if w.claims {
		readerCut, err := app.UntilCut(reader, start, cutLimit)
		if err != nil {
			return "", fmt.Errorf("a reader's connection: %w", err)
		}
		figure += fmt.Sprintf(", a reader's after %s", console.Took(readerCut))
	}
	if _, err := w.awaitLine(ctx, w.of(w.keeper), "access", "connection complete", map[string]string{"error": "connection closed due to policy change"}); err != nil {
		return "", err
	}
	if _, err := app.Open(ctx, w.shopper.Namespace, w.services()[0]); err == nil {
		return "", errors.New("a new connection is still allowed")
	}

	start = time.Now()
	if err := w.cluster.Plane.Update(back); err != nil {
		return "", err
	}
	if err := w.untilAllowed(ctx); err != nil {
		return "", fmt.Errorf("after the policy was taken back: %w", err)
	}
	return figure + fmt.Sprintf("; a new one refused; taken back: allowed after %s", console.Took(time.Since(start))), nil
}

// openReader reads the metrics of the stock's ztunnel once, and leaves the
// connection open for the next read, as Prometheus does.
func (w *world) openReader(ctx context.Context) (*net.TCPConn, error) {
	c, err := w.prometheus.Dial(ctx, metricsOf(w.of(w.keeper))[0])
	if err != nil {
		return nil, err
	}
	err = func() error {
		if err := c.SetDeadline(time.Now().Add(awaitLimit)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: ztunnel\r\n\r\n"); err != nil {
			return err
		}
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK || response.Close {
			return fmt.Errorf("status %d, keep-alive %t, want 200 and keep-alive", response.StatusCode, !response.Close)
		}
		return c.SetDeadline(time.Time{})
	}()
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("a reader's connection: %w", err)
	}
	return c, nil
}

// untilAllowed tries until a connection of the shop is allowed.
func (w *world) untilAllowed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cutLimit)
	defer cancel()
	return app.Retry(ctx, pollEvery, func() error {
		_, err := app.Say(ctx, w.shopper.Namespace, w.services()[0], []byte("hello"))
		return err
	})
}
