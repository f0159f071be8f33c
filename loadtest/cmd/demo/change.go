package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"ztunnel/loadtest/mesh"
)

const (
	// awaitLimit is how long something may take that should be there at once.
	awaitLimit = 5 * time.Second
	// pollEvery is how often something is tried that cannot be waited for.
	pollEvery = 25 * time.Millisecond
	// cutLimit is how long a policy change may take to have its effect.
	cutLimit = 10 * time.Second
)

// deny rewrites the configuration so that nobody may connect to the stock any
// more, while connections are open, and measures how long they stay so.
func (w *world) deny(ctx context.Context) (string, error) {
	user, err := open(ctx, w.client.pod.Namespace, w.services()[0])
	if err != nil {
		return "", err
	}
	defer user.Close()
	reader, err := w.openReader(ctx)
	if err != nil {
		return "", err
	}
	defer reader.Close()

	denied := w.config.Clone()
	denied.Policies = append(denied.Policies, mesh.DenyAll(w.server.id.Namespace, "nobody", echoTarget, webTarget, mesh.MetricsPort))
	start := time.Now()
	if err := denied.WriteFile(w.file); err != nil {
		return "", err
	}
	defer w.config.WriteFile(w.file) //nolint:errcheck // the second time; the first is below
	userCut, err := untilCut(user, start)
	if err != nil {
		return "", fmt.Errorf("a user's connection: %w", err)
	}
	readerCut, err := untilCut(reader, start)
	if err != nil {
		return "", fmt.Errorf("a reader's connection: %w", err)
	}
	if _, err := w.awaitLine(ctx, w.server, "access", "connection complete", map[string]string{"error": "connection closed due to policy change"}); err != nil {
		return "", err
	}
	if _, err := open(ctx, w.client.pod.Namespace, w.services()[0]); err == nil {
		return "", errors.New("a new connection is still allowed")
	}

	start = time.Now()
	if err := w.config.WriteFile(w.file); err != nil {
		return "", err
	}
	if err := w.untilAllowed(ctx); err != nil {
		return "", fmt.Errorf("after the policy was taken back: %w", err)
	}
	return fmt.Sprintf("file rewritten: a user's connection cut after %s, a reader's after %s, a new one refused; taken back: allowed after %s",
		took(userCut), took(readerCut), took(time.Since(start))), nil
}

// openReader reads the metrics of the stock's ztunnel once, and leaves the
// connection open for the next read, as Prometheus does.
func (w *world) openReader(ctx context.Context) (*net.TCPConn, error) {
	c, err := w.prometheus.pod.Dial(ctx, metricsOf(w.server.pod)[0])
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

// untilCut waits until the connection is ended by the other side.
func untilCut(c net.Conn, start time.Time) (time.Duration, error) {
	if err := c.SetReadDeadline(start.Add(cutLimit)); err != nil {
		return 0, err
	}
	n, err := c.Read(make([]byte, 1))
	if n > 0 {
		return 0, errors.New("a byte came, want the end")
	}
	if !errors.Is(err, io.EOF) && !refused(err) {
		return 0, fmt.Errorf("not cut %s after the change: %w", cutLimit, err)
	}
	return time.Since(start), nil
}

// untilAllowed tries until a connection of the shop is allowed.
func (w *world) untilAllowed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cutLimit)
	defer cancel()
	return w.retry(ctx, func() error {
		_, err := say(ctx, w.client.pod.Namespace, w.services()[0], []byte("hello"))
		return err
	})
}

// retry tries until it works, or ctx ends; then it returns the last error.
func (w *world) retry(ctx context.Context, try func() error) error {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return err
		}
	}
}

// drain ends the stock's ztunnel while a connection is open, and starts another.
func (w *world) drain(ctx context.Context) (string, error) {
	user, err := open(ctx, w.client.pod.Namespace, w.services()[0])
	if err != nil {
		return "", err
	}
	defer user.Close()
	start := time.Now()
	if err := w.server.zt.Signal(syscall.SIGTERM); err != nil {
		return "", err
	}
	if err := w.retry(ctx, w.isDraining(ctx)); err != nil {
		return "", err
	}
	pings := 1
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for ; time.Since(start) < time.Second; pings++ {
		if err := user.ping(); err != nil {
			return "", fmt.Errorf("%s after SIGTERM: %w", took(time.Since(start)), err)
		}
		<-poll.C
	}
	select {
	case <-w.server.zt.Ended():
		return "", errors.New("it ended while a connection was open")
	default:
	}
	if err := user.finish(pings); err != nil {
		return "", err
	}
	open := time.Since(start)
	limited, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	if err := w.server.zt.Wait(limited); err != nil {
		return "", fmt.Errorf("after the last connection, ztunnel ended with: %w", err)
	}
	ended := time.Since(start)
	again, err := w.takeOver(ctx)
	if err != nil {
		return "", fmt.Errorf("the next ztunnel: %w", err)
	}
	return fmt.Sprintf("readiness 503, %d pings in the %s after SIGTERM, all answered; exit status 0 %s after the connection's end\n"+
		"the next ztunnel carried traffic %s after its start", pings-1, took(open), took(ended-open), took(again)), nil
}

// isDraining asks the readiness of the stock's ztunnel.
func (w *world) isDraining(ctx context.Context) func() error {
	return func() error {
		status, _, err := w.server.zt.Get(ctx, mesh.ReadinessPort, "/healthz/ready")
		if err == nil && status != http.StatusServiceUnavailable {
			err = fmt.Errorf("readiness after SIGTERM is %d, want 503", status)
		}
		return err
	}
}

// takeOver starts another ztunnel in the place of the one that has ended.
func (w *world) takeOver(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	if err := w.startZtunnel(w.server); err != nil {
		return 0, err
	}
	if err := w.server.awaitReady(ctx); err != nil {
		return 0, err
	}
	if err := w.untilAllowed(ctx); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// address is where a member's ztunnel tells its metrics.
func (m *member) address() netip.AddrPort { return metricsOf(m.pod)[0] }
