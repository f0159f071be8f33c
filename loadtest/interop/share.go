package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/console"
)

const (
	// together is how many connections are open at the same time: more than one
	// tunnel carries, on either side of Envoy.
	together = 250
	// perTunnel is how many ztunnel puts into one, to Envoy.
	perTunnel = 100
)

// share opens connections that stay, and lets Envoy count tunnels and requests.
// Then one half ends in order, the other half is aborted.
func (w *world) share(ctx context.Context) (string, error) {
	before, err := w.current.stats(ctx)
	if err != nil {
		return "", err
	}
	var sessions []*app.Session
	for range together {
		s, err := w.open(ctx, w.keeperVIP)
		if err != nil {
			return "", fmt.Errorf("after %d connections: %w", len(sessions), err)
		}
		sessions = append(sessions, s)
	}
	open, err := w.current.stats(ctx)
	if err != nil {
		return "", err
	}
	tunnels, most := open[tunnelsIn]-before[tunnelsIn], (together+perTunnel-1)/perTunnel
	switch {
	case open[requestsInOpen]-before[requestsInOpen] != together || open[requestsOut]-before[requestsOut] != together:
		err = fmt.Errorf("Envoy has %d requests open and makes %d, want %d", open[requestsInOpen], open[requestsOut], together)
	case tunnels > most:
		err = fmt.Errorf("%d tunnels were opened to Envoy, want %d at most", tunnels, most)
	}
	for i, s := range sessions {
		if err = errors.Join(err, s.Ping()); err != nil {
			return "", fmt.Errorf("connection %d of %d: %w", i, together, err)
		}
		if i%2 == 0 {
			err = s.Finish()
		} else {
			err = errors.Join(s.SetLinger(0), s.Close())
		}
	}
	if err != nil {
		return "", err
	}
	if err := w.untilIdle(ctx, w.current); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d connections of one pod at the same time: %d requests by %d tunnels to Envoy, %d by %d tunnels of Envoy to the server;\n"+
		"half were ended in order and half reset, and Envoy had no request left",
		together, open[requestsInOpen], tunnels, open[requestsOut], open[tunnelsOutOpen]), nil
}

// untilIdle waits until Envoy has no request open, on either side.
func (w *world) untilIdle(ctx context.Context, e *envoy) error {
	limited, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	return app.Retry(limited, pollEvery, func() error {
		now, err := e.stats(ctx)
		if err == nil && now[requestsInOpen]+now[requestsOut] > 0 {
			err = fmt.Errorf("Envoy has %d requests open and makes %d, want none", now[requestsInOpen], now[requestsOut])
		}
		return err
	})
}

const (
	// stallTime is how long nothing can be sent on a connection that stalls.
	stallTime = 500 * time.Millisecond
	// stallSize is more than all on the way can hold, bytes.
	stallSize = 1 << 30
)

// stall fills a connection whose client does not read, until nothing goes on.
// Others in the same tunnel must not notice, nor may anything be lost.
func (w *world) stall(ctx context.Context) (string, error) {
	s, err := w.open(ctx, w.keeperVIP)
	if err != nil {
		return "", err
	}
	defer s.Close() // so that a failure stays with this proof
	sent, chunk := 4*s.Pings, make([]byte, 1<<20)
	for sent < stallSize {
		if err := s.SetWriteDeadline(time.Now().Add(stallTime)); err != nil {
			return "", err
		}
		n, err := s.Write(chunk)
		sent += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("fill a connection: %w", err)
		}
	}
	if sent >= stallSize {
		return "", fmt.Errorf("%d bytes were taken from a client that does not read", sent)
	}
	before, err := w.current.stats(ctx)
	if err != nil {
		return "", err
	}
	done, err := w.exchange(ctx, w.keeperVIP, []byte("x"))
	if err != nil {
		return "", fmt.Errorf("while another connection stands still, of which %d bytes were taken: %w", sent, err)
	}
	after, err := w.current.stats(ctx)
	if err != nil {
		return "", err
	}
	if opened := after[tunnelsIn] - before[tunnelsIn]; opened > 0 {
		return "", fmt.Errorf("%d more tunnels were opened to Envoy, want the one that was there", opened)
	}
	// Only now the client reads.
	if err := errors.Join(s.CloseWrite(), s.SetReadDeadline(time.Now().Add(console.ProofLimit))); err != nil {
		return "", err
	}
	received, err := io.Copy(io.Discard, s)
	if err != nil {
		return "", fmt.Errorf("read what stood still: %w", err)
	}
	last := len(fmt.Sprintf("that was %d bytes\n", sent))
	if want := sent - 4*s.Pings + last; int(received) != want {
		return "", fmt.Errorf("%d bytes came back, want %d", received, want)
	}
	return fmt.Sprintf("%.1f MB stood still on the way; %d connections in the same tunnel meanwhile, slowest %s; all came back then",
		float64(sent)/1e6, len(done), console.Took(slowest(done))), nil
}
