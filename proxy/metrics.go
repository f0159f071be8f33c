package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"ztunnel/proxy/hbone"
	"ztunnel/telemetry/catalog"
)

// pools are the tunnels of all pods.
type pools struct {
	mu   sync.Mutex
	open map[*hbone.Pool]struct{}
	// hits and misses are those of pools that are no more, so that the totals
	// do not run backwards.
	hits, misses uint64
}

func (p *pools) add(pool *hbone.Pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = map[*hbone.Pool]struct{}{}
	}
	p.open[pool] = struct{}{}
}

// remove takes out a pool that is closed.
func (p *pools) remove(pool *hbone.Pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.open[pool]; !ok {
		return
	}
	delete(p.open, pool)
	s := pool.Stats()
	p.hits += s.Hits
	p.misses += s.Misses
}

// stats is the sum of all pools.
func (p *pools) stats() hbone.PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := hbone.PoolStats{Hits: p.hits, Misses: p.misses}
	for pool := range p.open {
		s := pool.Stats()
		all.Idle += s.Idle
		all.Active += s.Active
		all.Dials += s.Dials
		all.Streams += s.Streams
		all.Hits += s.Hits
		all.Misses += s.Misses
	}
	return all
}

// Register makes the metrics of the node known to a meter: panics that were
// survived, whether it drains and what a drain had to cut, whether its
// certificates are made up, and its tunnels.
func (n *Node) Register(meter metric.Meter) error {
	var errs []error
	var all []metric.Observable
	gauge := func(name string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithDescription(catalog.Help(name)))
		errs, all = append(errs, err), append(all, g)
		return g
	}
	counter := func(name string) metric.Int64ObservableCounter {
		c, err := meter.Int64ObservableCounter(name, metric.WithDescription(catalog.Help(name)))
		errs, all = append(errs, err), append(all, c)
		return c
	}
	panics, forced := counter(catalog.Panics), counter(catalog.DrainForced)
	draining, fakeCA := gauge(catalog.Draining), gauge(catalog.FakeCA)
	tunnels, streams := gauge(catalog.PoolConnections), gauge(catalog.PoolStreams)
	hits, misses := counter(catalog.PoolHits), counter(catalog.PoolMisses)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("create metrics of the node: %w", err)
	}
	state := func(name string) metric.ObserveOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("state", name)))
	}
	active, idle, dialing := state("active"), state("idle"), state("dialing")
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(panics, n.panics.Load())
		o.ObserveInt64(draining, n.draining.Load())
		o.ObserveInt64(forced, n.forced.Load())
		o.ObserveInt64(fakeCA, one(n.Config.FakeCA))
		s := n.pools.stats()
		o.ObserveInt64(tunnels, int64(s.Active), active)
		o.ObserveInt64(tunnels, int64(s.Idle), idle)
		o.ObserveInt64(tunnels, int64(s.Dials), dialing)
		o.ObserveInt64(streams, int64(s.Streams))
		o.ObserveInt64(hits, int64(s.Hits))
		o.ObserveInt64(misses, int64(s.Misses))
		return nil
	}, all...)
	if err != nil {
		return fmt.Errorf("observe the node: %w", err)
	}
	return nil
}

// Register makes the metrics of the pods' DNS proxies known to a meter.
func (ps *Pods) Register(meter metric.Meter) error { return ps.queries.Register(meter) }

// one is a truth as a metric.
func one(is bool) int64 {
	if is {
		return 1
	}
	return 0
}
