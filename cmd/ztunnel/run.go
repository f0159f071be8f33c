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
	rest.Go(func() error { return p.crl.Run(restCtx) })
	if p.discovery != nil {
		rest.Go(func() error { return p.discovery.Run(restCtx) })
	} else { // beside a control plane, a local configuration is read once
		rest.Go(func() error { return p.local.Watch(restCtx) })
	}
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
	if p.ca != nil {
		p.ca.Close()
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if shutdownErr := p.telemetry.Shutdown(flush); shutdownErr != nil {
		p.log.Warn("telemetry did not end cleanly", "error", shutdownErr)
	}
	return err
}

// serveData serves the pods until they have drained. Without a data path it
// waits until the process is asked to end.
//
// Nothing is served before the control plane has told what there is: until then
// connections wait in the kernel, and the CNI agent is not spoken to.
func (p *process) serveData(ctx context.Context) error {
	defer p.node.Close()
	if !p.awaitSync(ctx) {
		return nil
	}
	switch {
	case p.inpod != nil:
		return p.servePods(ctx)
	case p.pod != nil:
		p.surface.SetReady(true)
		if err := p.pod.Serve(ctx, p.quit.drain, p.cfg.DrainDeadline); err != nil {
			return fmt.Errorf("serve the pod: %w", err)
		}
		return nil
	}
	select {
	case <-p.quit.drain:
	case <-ctx.Done():
	}
	return nil
}

// awaitSync waits for the first state of the mesh, and reports whether it came
// before the process was asked to end.
func (p *process) awaitSync(ctx context.Context) bool {
	if p.discovery != nil {
		select {
		case <-p.discovery.Synced():
		case <-p.quit.drain:
			return false
		case <-ctx.Done():
			return false
		}
	}
	p.stateReady()
	return true
}

// servePods serves the pods that the CNI agent names until they have drained,
// and the process itself a little longer, so that its end can be watched.
func (p *process) servePods(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	parts, partsCtx := errgroup.WithContext(ctx)
	if p.self != nil {
		parts.Go(func() error { return p.self.Serve(partsCtx) })
	}
	parts.Go(func() error {
		defer stop()
		if err := p.inpod.Run(partsCtx, p.quit.drain); err != nil {
			return fmt.Errorf("WorkloadProxyManager run error: %w", err)
		}
		return nil
	})
	return parts.Wait()
}
