package connection

import (
	"context"
	"errors"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"ztunnel/telemetry/catalog"
)

// instruments are the observable instruments of a recorder with one meter.
type instruments struct {
	opened, closed, failed, received, sent metric.Int64ObservableCounter
	active, sockets                        metric.Int64ObservableGauge
	rejected                               metric.Int64ObservableCounter
	series                                 metric.Int64ObservableGauge
	evicted, overflow                      metric.Int64ObservableCounter
}

// Register makes the recorder report through the meter. What cannot be
// registered is in the error. A recorder may be registered with several meters.
// The meter's provider must not limit the number of attribute sets: the
// recorder does, and its overflow series keep all labels.
func (r *Recorder) Register(meter metric.Meter) error {
	if r == nil {
		return nil
	}
	var errs []error
	var all []metric.Observable
	counter := func(name, unit string) metric.Int64ObservableCounter {
		c, err := meter.Int64ObservableCounter(name, metric.WithDescription(catalog.Help(name)), metric.WithUnit(unit))
		errs, all = append(errs, err), append(all, c)
		return c
	}
	gauge := func(name string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithDescription(catalog.Help(name)))
		errs, all = append(errs, err), append(all, g)
		return g
	}
	in := &instruments{
		opened: counter(catalog.Opened, ""), closed: counter(catalog.Closed, ""), failed: counter(catalog.Failed, ""),
		received: counter(catalog.ReceivedBytes, "By"), sent: counter(catalog.SentBytes, "By"),
		active: gauge(catalog.Active), sockets: gauge(catalog.SocketsOpen), rejected: counter(catalog.Rejected, ""),
		series: gauge(catalog.MetricSeries), evicted: counter(catalog.MetricSeriesEvicted, ""), overflow: counter(catalog.MetricOverflow, ""),
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		r.collect(o, in)
		return nil
	}, all...)
	return err
}

// collect observes everything once.
func (r *Recorder) collect(o metric.Observer, in *instruments) {
	r.collecting.Lock()
	defer r.collecting.Unlock()
	r.scratch = r.snapshot(r.scratch[:0])
	for _, s := range r.scratch {
		s.observe(o, in)
	}
	clear(r.scratch) // hold on to no evicted series
	for by := range Reporter(reporters) {
		if g := &r.sockets[by]; g.used.Load() {
			o.ObserveInt64(in.sockets, g.open.Load(), metric.WithAttributes(attribute.String("reporter", by.String())))
		}
	}
	used := func(by Reporter) bool { return r.sockets[by].used.Load() }
	r.rejects.snapshot(r.now(), r.idleEviction, used, func(k rejectKey, n uint64) {
		o.ObserveInt64(in.rejected, int64(n), metric.WithAttributes(
			attribute.String("reporter", k.reporter.String()), attribute.String("reason", string(k.reason)),
			attribute.String("destination_workload", k.workload), attribute.String("destination_workload_namespace", k.namespace)))
	})
	r.observeOwn(o, in)
}

// observeOwn reports on the series themselves.
func (r *Recorder) observeOwn(o metric.Observer, in *instruments) {
	pairs, evicted, over := r.pairs.Load(), r.evictedPairs.Load(), r.openedOverflow.Load()
	for _, f := range []struct {
		name                      string
		series, evicted, overflow int64
	}{
		{catalog.Opened, pairs, evicted, over},
		{catalog.ReceivedBytes, pairs, evicted, over},
		{catalog.SentBytes, pairs, evicted, over},
		{catalog.Closed, r.closedVariants.Load(), r.evictedClosed.Load(), r.closedOverflow.Load()},
		{catalog.Failed, r.failedVariants.Load(), r.evictedFailed.Load(), r.failedOverflow.Load()},
	} {
		family := metric.WithAttributes(attribute.String("family", f.name))
		o.ObserveInt64(in.series, f.series, family)
		o.ObserveInt64(in.evicted, f.evicted, family)
		o.ObserveInt64(in.overflow, f.overflow, family)
	}
}

// observe reports one series: opened and bytes under the flag "-", what ended
// under the flag it ended with. A flag without an end has no series.
func (s *series) observe(o metric.Observer, in *instruments) {
	t := s.totals()
	if t.opened > 0 {
		plain := s.option(0)
		o.ObserveInt64(in.opened, int64(t.opened), plain...)
		o.ObserveInt64(in.received, int64(t.received), plain...)
		o.ObserveInt64(in.sent, int64(t.sent), plain...)
		o.ObserveInt64(in.active, int64(t.active), s.option(len(flags))...)
	}
	for i, n := range t.closed {
		if n == 0 {
			continue
		}
		o.ObserveInt64(in.closed, int64(n), s.option(i)...)
		if i != 0 {
			o.ObserveInt64(in.failed, int64(n), s.option(i)...)
		}
	}
}

// option returns the cached label set for a flag, or without flags.
func (s *series) option(flag int) []metric.ObserveOption {
	if s.options[flag] == nil {
		set := attribute.NewSet(s.key.attributes(flag)...)
		s.options[flag] = []metric.ObserveOption{metric.WithAttributeSet(set)}
	}
	return s.options[flag]
}

// attributes are the traffic labels with a flag, or without if flag is none.
func (k *key) attributes(flag int) []attribute.KeyValue {
	policy := unknown
	if k.mutualTLS {
		policy = "mutual_tls"
	}
	kv := slices.Grow([]attribute.KeyValue(nil), 27)
	kv = append(kv,
		attribute.String("reporter", k.reporter.String()),
		attribute.String("request_protocol", "tcp"),
		attribute.String("connection_security_policy", policy),
		attribute.String("destination_service", k.serviceHost),
		attribute.String("destination_service_namespace", k.serviceNS),
		attribute.String("destination_service_name", k.serviceName))
	kv = k.src.attributes(kv, "source_", k.locality)
	kv = k.dst.attributes(kv, "destination_", k.locality)
	if flag < len(flags) {
		kv = append(kv, attribute.String(catalog.ResponseFlags, string(flags[flag])))
	}
	return kv
}

func (e *end) attributes(kv []attribute.KeyValue, side string, locality bool) []attribute.KeyValue {
	add := func(name, value string) { kv = append(kv, attribute.String(side+name, value)) }
	add("workload", e.workload)
	add("canonical_service", e.canonical)
	add("canonical_revision", e.revision)
	add("workload_namespace", e.namespace)
	add("principal", e.principal)
	add("app", e.app)
	add("version", e.revision)
	add("cluster", e.cluster)
	if locality {
		add("region", e.region)
		add("zone", e.zone)
	}
	return kv
}
