package show

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/console"
)

// upgrade replaces the ztunnel of the stock's node while a connection is open:
// the new one starts, then the old one is told to end.
func (w *world) upgrade(ctx context.Context) (string, error) {
	user, err := app.Open(ctx, w.shopper.Namespace, w.services()[0])
	if err != nil {
		return "", err
	}
	defer user.Close()
	old, start := w.ztunnels[1], time.Now()
	next, err := w.nodes[1].StartZtunnel()
	if err != nil {
		return "", err
	}
	if err := awaitReady(ctx, next); err != nil {
		return "", err
	}
	w.ztunnels[1] = next
	ready := time.Since(start)
	start = time.Now()
	if err := old.Signal(syscall.SIGTERM); err != nil {
		return "", err
	}
	news, err := w.whileDraining(ctx, old, user)
	if err != nil {
		return "", err
	}
	pings := user.Pings - 1
	if err := user.Finish(); err != nil {
		return "", err
	}
	open := time.Since(start)
	limited, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	if err := old.Wait(limited); err != nil {
		return "", fmt.Errorf("after the last connection, ztunnel ended with: %w", err)
	}
	ended := time.Since(start)
	if err := w.nodes[1].Retire(ctx, old); err != nil {
		return "", err
	}
	return fmt.Sprintf("the new one ready after %s; in the %s after SIGTERM to the old one %d pings answered and %s; exit status 0 %s after the connection's end",
		console.Took(ready), console.Took(open), pings, news, console.Took(ended-open)), nil
}

// whileDraining uses the open connection, and new ones, for a second. It tells
// what became of the new ones.
func (w *world) whileDraining(ctx context.Context, old *cluster.Ztunnel, user *app.Session) (string, error) {
	complete, lost := 0, 0
	for start := time.Now(); time.Since(start) < time.Second; {
		if err := user.Ping(); err != nil {
			return "", fmt.Errorf("%s after SIGTERM: %w", console.Took(time.Since(start)), err)
		}
		limited, cancel := context.WithTimeout(ctx, time.Second)
		_, err := app.Say(limited, w.shopper.Namespace, w.services()[0], []byte("hello"))
		cancel()
		switch {
		case err == nil:
			complete++
		case w.claims:
			return "", fmt.Errorf("a new connection, %s after SIGTERM: %w", console.Took(time.Since(start)), err)
		default:
			lost++
		}
	}
	select {
	case <-old.Ended():
		return "", errors.New("it ended while a connection was open")
	default:
	}
	if complete == 0 {
		return "", fmt.Errorf("%d new connections, none complete", lost)
	}
	news := fmt.Sprintf("%d new connections complete", complete)
	if lost > 0 {
		news += fmt.Sprintf(", %d lost (that none is lost is not claimed by this ztunnel)", lost)
	}
	return news, nil
}
