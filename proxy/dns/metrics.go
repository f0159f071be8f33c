package dns

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// The metrics of servers and of a Resolver.
const (
	metricRequests = "istio_dns_requests_total"
	metricUpstream = "istio_dns_upstream_requests_total"
	metricFailures = "istio_dns_upstream_failures_total"
	metricDuration = "istio_dns_upstream_request_duration_seconds"
	metricRefused  = "istio_ztunnel_dns_refused_total"
	metricOnDemand = "istio_on_demand_dns_total"
)

// durationBuckets are those of metricDuration, in seconds: the reference's.
var durationBuckets = []float64{.0005, .001, .01, .1, 1, 5}

const (
	unknown  = "unknown"
	overflow = "overflow"
	// maxSeries bounds the series of one metric. What is beyond counts in a series
	// whose labels say "overflow".
	maxSeries = 2000
)

// transport is how a query came.
type transport uint8

const (
	overUDP transport = iota
	overTCP
	transports
)

// String is the value of the label request_protocol.
func (t transport) String() string { return [...]string{"udp", "tcp"}[t] }

// Metrics counts what one or several servers do. The zero value counts;
// Register shows the counts.
type Metrics struct {
	refused atomic.Uint64

	mu       sync.Mutex
	all      map[seriesKey]*series
	duration metric.Float64Histogram // nil until it is registered
}

// seriesKey is the values of the labels of a query.
type seriesKey struct {
	qtype             uint16 // 0: unknown
	over              transport
	service, revision string
}

// series counts the queries of one seriesKey.
type series struct {
	key                          seriesKey
	requests, upstream, failures atomic.Uint64
	attributes                   metric.MeasurementOption
}

// Refused is how many queries were turned away because too many were waiting.
func (m *Metrics) Refused() uint64 { return m.refused.Load() }

// series returns the series of a key. Types that have no name count together.
func (m *Metrics) series(k seriesKey) *series {
	if _, ok := dns.TypeToString[k.qtype]; !ok {
		k.qtype = dns.TypeNone
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all[k] == nil && len(m.all) >= maxSeries {
		k.service, k.revision = overflow, overflow
	}
	s := m.all[k]
	if s == nil {
		qtype := unknown
		if k.qtype != dns.TypeNone {
			qtype = strings.ToLower(dns.TypeToString[k.qtype])
		}
		s = &series{key: k, attributes: metric.WithAttributeSet(attribute.NewSet(
			attribute.String("request_query_type", qtype), attribute.Stringer("request_protocol", k.over),
			attribute.String("source_canonical_service", k.service), attribute.String("source_canonical_revision", k.revision)))}
		if m.all == nil {
			m.all = make(map[seriesKey]*series)
		}
		m.all[k] = s
	}
	return s
}

// observe records how long a resolver took.
func (m *Metrics) observe(s *series, took time.Duration) {
	m.mu.Lock()
	duration := m.duration
	m.mu.Unlock()
	if duration != nil {
		duration.Record(context.Background(), took.Seconds(), s.attributes)
	}
}

// addressSeries are the series of queries for addresses that one workload sends,
// so that they are not looked for each time.
type addressSeries struct {
	own *workload.Workload
	of  [transports][2]*series // of A and of AAAA
}

// series returns the series of a query of a workload, which may be nil.
func (s *Server) series(own *workload.Workload, qtype uint16, over transport) *series {
	recent := s.recent.Load()
	if recent != nil && recent.own == own {
		switch qtype {
		case dns.TypeA:
			return recent.of[over][0]
		case dns.TypeAAAA:
			return recent.of[over][1]
		}
	}
	k := seriesKey{service: unknown, revision: unknown, qtype: qtype, over: over}
	if own != nil {
		k.service, k.revision = or(own.CanonicalName, unknown), or(own.CanonicalRevision, unknown)
	}
	if own == nil || qtype != dns.TypeA && qtype != dns.TypeAAAA {
		return s.config.Metrics.series(k)
	}
	recent = &addressSeries{own: own}
	for over := range transports {
		for i, qtype := range [...]uint16{dns.TypeA, dns.TypeAAAA} {
			recent.of[over][i] = s.config.Metrics.series(seriesKey{service: k.service, revision: k.revision, qtype: qtype, over: over})
		}
	}
	s.recent.Store(recent)
	return s.series(own, qtype, over)
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// forwarded counts a query that was handed on.
func (r *series) forwarded(took time.Duration, failed bool, m *Metrics) {
	r.requests.Add(1)
	r.upstream.Add(1)
	if failed {
		r.failures.Add(1)
	}
	m.observe(r, took)
}

// Register makes the metrics known to a meter: queries by type, transport and
// workload, those that were forwarded, which of them failed and how long they
// took, and queries that were refused.
func (m *Metrics) Register(meter metric.Meter) error {
	duration, err := meter.Float64Histogram(metricDuration, metric.WithUnit("s"),
		metric.WithDescription("The time that resolvers took for forwarded DNS queries"), metric.WithExplicitBucketBoundaries(durationBuckets...))
	k := &maker{meter: meter, errs: []error{err}}
	requests := k.counter(metricRequests, "The total number of DNS queries")
	upstream := k.counter(metricUpstream, "The total number of DNS queries that were forwarded")
	failures := k.counter(metricFailures, "The total number of DNS queries that were forwarded and brought no record")
	refused := k.counter(metricRefused, "The total number of DNS queries refused because too many were waiting")
	if err := errors.Join(k.errs...); err != nil {
		return fmt.Errorf("register dns metrics: %w", err)
	}
	m.mu.Lock()
	m.duration = duration
	m.mu.Unlock()
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(refused, int64(m.Refused()))
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, s := range m.all {
			for _, c := range []struct {
				counter metric.Int64ObservableCounter
				count   *atomic.Uint64
			}{{requests, &s.requests}, {upstream, &s.upstream}, {failures, &s.failures}} {
				if n := c.count.Load(); n > 0 {
					o.ObserveInt64(c.counter, int64(n), s.attributes)
				}
			}
		}
		return nil
	}, requests, upstream, failures, refused)
	if err != nil {
		return fmt.Errorf("register dns metrics: %w", err)
	}
	return nil
}

// Register makes the metrics of the server known to a meter.
func (s *Server) Register(meter metric.Meter) error { return s.config.Metrics.Register(meter) }

// maker makes observable counters and keeps the errors of that.
type maker struct {
	meter metric.Meter
	errs  []error
}

func (k *maker) counter(name, help string) metric.Int64ObservableCounter {
	c, err := k.meter.Int64ObservableCounter(name, metric.WithDescription(help))
	k.errs = append(k.errs, err)
	return c
}

// onDemand counts the lookups of a Resolver.
type onDemand struct {
	mu  sync.Mutex
	all map[onDemandKey]*onDemandSeries
}

// onDemandKey is the values of the labels of a lookup.
type onDemandKey struct {
	workload, service, revision, namespace, principal, app, cluster, hostname string
}

type onDemandSeries struct {
	n          uint64
	attributes metric.MeasurementOption
}

// count counts a lookup that a connection of a workload needs.
func (d *onDemand) count(source *connection.Workload, hostname string) {
	k := newOnDemandKey(source, hostname)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all[k] == nil && len(d.all) >= maxSeries {
		k = onDemandKey{overflow, overflow, overflow, overflow, overflow, overflow, overflow, overflow}
	}
	s := d.all[k]
	if s == nil {
		s = &onDemandSeries{attributes: k.attributes()}
		if d.all == nil {
			d.all = make(map[onDemandKey]*onDemandSeries)
		}
		d.all[k] = s
	}
	s.n++
}

func newOnDemandKey(source *connection.Workload, hostname string) onDemandKey {
	if source == nil {
		return onDemandKey{unknown, unknown, unknown, unknown, unknown, unknown, unknown, or(hostname, unknown)}
	}
	k := onDemandKey{
		workload: or(source.Name, unknown), namespace: or(source.Namespace, unknown), principal: or(source.Principal, unknown),
		service: or(source.CanonicalName, unknown), revision: or(source.CanonicalRevision, unknown),
		cluster: or(source.Cluster, "Kubernetes"), hostname: or(hostname, unknown),
	}
	k.app = or(source.App, k.service)
	return k
}

func (k *onDemandKey) attributes() metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(
		attribute.String("source_workload", k.workload), attribute.String("source_canonical_service", k.service),
		attribute.String("source_canonical_revision", k.revision), attribute.String("source_workload_namespace", k.namespace),
		attribute.String("source_principal", k.principal), attribute.String("source_app", k.app), attribute.String("source_version", k.revision),
		attribute.String("source_cluster", k.cluster), attribute.String("hostname", k.hostname)))
}

// Register makes the lookups known to a meter, as istio_on_demand_dns_total.
func (r *Resolver) Register(meter metric.Meter) error {
	_, err := meter.Int64ObservableCounter(metricOnDemand,
		metric.WithDescription("The total number of lookups of workloads that are only known by a hostname, whether the answer was kept or not"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			r.counts.mu.Lock()
			defer r.counts.mu.Unlock()
			for _, s := range r.counts.all {
				o.Observe(int64(s.n), s.attributes)
			}
			return nil
		}))
	if err != nil {
		return fmt.Errorf("register dns metrics: %w", err)
	}
	return nil
}
