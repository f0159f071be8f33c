package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"ztunnel/proxy/reclaim"
)

// run serves until the process is asked to end and the data path has drained,
// or a part fails.
//
// The order of the end, and why:
//
//  1. readiness says 503, so that nothing new is sent here;
//  2. the data path drains, up to the deadline. Admin, metrics, readiness and
//     certificates go on meanwhile: a draining process can be looked at, and
//     open connections may need new tunnels;
//  3. everything else ends, and telemetry pushes what it has last, because it
//     counts what happened before.
func (p *process) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	rest, restCtx := errgroup.WithContext(ctx)
	rest.Go(func() error { p.quit.watchSignals(restCtx); return nil })
	rest.Go(func() error { return p.readiness.Serve(restCtx, p.readinessListeners...) })
	rest.Go(func() error { return p.admin.Serve(restCtx, p.adminListeners...) })
	rest.Go(func() error { return p.certificates.Run(restCtx) })
	rest.Go(func() error { return p.local.Watch(restCtx) })
	rest.Go(func() error { return p.profiler.Run(restCtx) })
	rest.Go(func() error { return reclaim.Run(restCtx, reclaim.Config{Trim: p.node.Trim, Log: p.log}) })
	if len(p.statsListeners) > 0 {
		rest.Go(func() error {
			return p.surface.ServePlaintext(restCtx, p.logs.Logger("telemetry"), p.statsListeners...)
		})
	}
	if p.dns != nil {
		rest.Go(func() error { return p.dns.Serve(restCtx) })
	}
	rest.Go(func() error {
		select {
		case <-p.quit.drain:
			p.readiness.Drain()
			p.surface.Drain()
			p.node.Drain()
		case <-restCtx.Done():
		}
		return nil
	})
	rest.Go(func() error {
		defer stop()
		return p.serveData(restCtx)
	})
	err := rest.Wait()
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if shutdownErr := p.telemetry.Shutdown(flush); shutdownErr != nil {
		p.log.Warn("telemetry did not end cleanly", "error", shutdownErr)
	}
	return err
}

// serveData serves the pod until it has drained. Without a data path it waits
// until the process is asked to end.
func (p *process) serveData(ctx context.Context) error {
	if p.pod == nil {
		select {
		case <-p.quit.drain:
		case <-ctx.Done():
		}
		return nil
	}
	defer p.node.Close()
	p.surface.SetReady(true)
	if err := p.pod.Serve(ctx, p.quit.drain, p.cfg.DrainDeadline); err != nil {
		return fmt.Errorf("serve the pod: %w", err)
	}
	return nil
}
