package inpod

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// The metrics of a Manager.
const (
	metricActive    = "workload_manager_active_proxy_count"
	metricPending   = "workload_manager_pending_proxy_count"
	metricStarted   = "workload_manager_proxies_started_total"
	metricStopped   = "workload_manager_proxies_stopped_total"
	metricEvents    = "istio_ztunnel_inpod_events_total"
	metricStartTime = "istio_ztunnel_inpod_start_duration_seconds"
	metricOldest    = "istio_ztunnel_inpod_pending_oldest_seconds"
	metricConnected = "istio_ztunnel_cni_connected"
)

// startBuckets are those of metricStartTime, in seconds: the agent waits for five.
var startBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5}

// event is a kind of message and what became of it.
type event struct{ kind, result string }

// counters are what a Manager counts.
type counters struct {
	starts, stopped atomic.Uint64
	connected       atomic.Bool

	mu       sync.Mutex
	events   map[event]uint64
	duration metric.Float64Histogram // nil until Register
}

// count counts a message.
func (c *counters) count(kind string, err error) {
	e := event{kind, "success"}
	if err != nil {
		e.result = "error"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.events == nil {
		c.events = map[event]uint64{}
	}
	c.events[e]++
}

// started counts an attempt to start a pod.
func (c *counters) started(err error, d time.Duration) {
	if err == nil {
		c.starts.Add(1)
	}
	c.mu.Lock()
	duration := c.duration
	c.mu.Unlock()
	if duration != nil {
		duration.Record(context.Background(), d.Seconds())
	}
}

// Register makes the metrics of the manager known to a meter: pods served, pending, started and stopped, the agent's messages, and
// whether the agent is there.
func (m *Manager) Register(meter metric.Meter) error {
	var errs []error
	var all []metric.Observable
	gauge := func(name, help string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithDescription(help))
		errs, all = append(errs, err), append(all, g)
		return g
	}
	counter := func(name, help string) metric.Int64ObservableCounter {
		c, err := meter.Int64ObservableCounter(name, metric.WithDescription(help))
		errs, all = append(errs, err), append(all, c)
		return c
	}
	active := gauge(metricActive, "The total number current workloads with active proxies")
	waiting := gauge(metricPending, "The total number current workloads with pending proxies")
	started := counter(metricStarted, "The total number of proxies that were started")
	stopped := counter(metricStopped, "The total number of proxies that were stopped")
	events := counter(metricEvents, "The total number of messages of the node agent, by type and result")
	connected := gauge(metricConnected, "Whether there is a connection to the node agent")
	oldest, err := meter.Float64ObservableGauge(metricOldest, metric.WithUnit("s"),
		metric.WithDescription("The time that a pod has been waiting to be served, of the one that waits longest"))
	errs, all = append(errs, err), append(all, oldest)
	duration, err := meter.Float64Histogram(metricStartTime, metric.WithUnit("s"),
		metric.WithDescription("The time to start the proxy of a pod, also if that fails"), metric.WithExplicitBucketBoundaries(startBuckets...))
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("create metrics of the workload manager: %w", err)
	}
	m.metrics.mu.Lock()
	m.metrics.duration = duration
	m.metrics.mu.Unlock()
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		up, pending, wait := m.states.counts()
		o.ObserveInt64(active, int64(up))
		o.ObserveInt64(waiting, int64(pending))
		o.ObserveInt64(started, int64(m.metrics.starts.Load()))
		o.ObserveInt64(stopped, int64(m.metrics.stopped.Load()))
		o.ObserveInt64(connected, one(m.metrics.connected.Load()))
		o.ObserveFloat64(oldest, wait.Seconds())
		m.metrics.mu.Lock()
		defer m.metrics.mu.Unlock()
		for e, n := range m.metrics.events {
			o.ObserveInt64(events, int64(n), metric.WithAttributes(attribute.String("type", e.kind), attribute.String("result", e.result)))
		}
		return nil
	}, all...)
	if err != nil {
		return fmt.Errorf("observe the workload manager: %w", err)
	}
	return nil
}

// counts is how many pods are served and pending, and how long the longest has been pending.
func (s *states) counts() (up, waiting int, oldest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pending {
		oldest = max(oldest, time.Since(p.since))
	}
	return len(s.running), len(s.pending), oldest
}

// one is a truth as a metric.
func one(is bool) int64 {
	if is {
		return 1
	}
	return 0
}
