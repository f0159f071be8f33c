package measure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
)

const (
	// readEvery is how often a ztunnel that drains is looked at.
	readEvery = 100 * time.Millisecond
	// endLag is how long before its end a ztunnel may stop to answer: its parts do
	// not end at the same moment, less so on a machine that is busy.
	endLag = 500 * time.Millisecond
)

// readAdmin reads the admin server of a ztunnel until it ends.
func (u *upgrades) readAdmin(ctx context.Context, z *cluster.Ztunnel) {
	u.readUntilEnd(ctx, z, readAdmin, func() error {
		return expectOK(z.Get(ctx, mesh.AdminPort, "/config_dump"))
	})
}

// readMetrics reads its metrics as Prometheus does, out of a captured pod of
// another process.
func (u *upgrades) readMetrics(ctx context.Context, z *cluster.Ztunnel) {
	client := u.reader.HTTP()
	defer client.CloseIdleConnections()
	url := "http://" + netip.AddrPortFrom(z.Pod.Addr, mesh.MetricsPort).String() + "/metrics"
	u.readUntilEnd(ctx, z, readMetrics, func() error {
		limited, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		return expectOK(mesh.Get(limited, client, url))
	})
}

// expectOK is an error unless an HTTP server has answered with success.
func expectOK(status int, _ string, err error) error {
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	return err
}

// readUntilEnd reads again and again. What fails just before the end is no
// failure; how long before is told.
func (u *upgrades) readUntilEnd(ctx context.Context, z *cluster.Ztunnel, kind int, read func() error) {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	for {
		err := read()
		failed, grace := time.Now(), time.Duration(0)
		if err != nil {
			grace = endLag
		}
		if ended(ctx, z, grace) {
			u.blind(kind, time.Since(failed))
			return
		}
		u.read(kind, err)
		select {
		case <-tick.C:
		case <-z.Ended():
			return
		case <-ctx.Done():
			return
		}
	}
}

// ended tells whether a ztunnel has ended, or does so within a time, or nobody
// wants to know any more. It asks the kernel: what waits for the process in here
// may be late.
func ended(ctx context.Context, z *cluster.Ztunnel, within time.Duration) bool {
	limited, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return ctx.Err() != nil || app.Retry(limited, pollEvery, func() error {
		if alive(z.PID()) {
			return errAlive
		}
		return nil
	}) == nil
}

var errAlive = errors.New("the process is alive")
