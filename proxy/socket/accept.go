package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Bounds of the pause after a failed accept, so that a process without free
// descriptors neither spins nor floods its log.
const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
	// acceptQuiet is how often failures are logged, also when they alternate
	// with successes.
	acceptQuiet = time.Second
)

// Accept hands every connection that ln takes to serve, which must not block,
// and owns it from then on. It returns nil when ln is closed, or ctx's cause.
// A failed accept, as without free descriptors, is logged, at most once a
// second, and tried again after a growing pause; so is the end of a series of
// failures that was logged.
func Accept(ctx context.Context, ln *net.TCPListener, log *slog.Logger, serve func(*net.TCPConn)) error {
	var pause time.Duration
	var logged time.Time // the last failure
	told := false        // this series of failures was logged
	for {
		conn, err := ln.AcceptTCP()
		switch {
		case err == nil:
			if told {
				log.Info("accepting connections again", "address", ln.Addr().String())
			}
			pause, told = 0, false
			serve(conn)
			continue
		case errors.Is(err, net.ErrClosed):
			return nil
		}
		if pause == 0 && time.Since(logged) > acceptQuiet {
			log.Error("Failed TCP handshake "+ErrorText(err), "address", ln.Addr().String())
			logged, told = time.Now(), true
		}
		pause = min(max(2*pause, acceptPauseMin), acceptPauseMax)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("accept on %s: %w", ln.Addr(), context.Cause(ctx))
		}
	}
}
