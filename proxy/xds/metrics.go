package xds

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// The metrics of a Client. The first three are the reference's.
const (
	metricTerminations  = "istio_xds_connection_terminations_total"
	metricMessages      = "istio_xds_message_total"
	metricMessageBytes  = "istio_xds_message_bytes_total"
	metricConnected     = "istio_ztunnel_xds_connected"
	metricLastMessage   = "istio_ztunnel_xds_last_message_timestamp_seconds"
	metricLastAck       = "istio_ztunnel_xds_last_ack_timestamp_seconds"
	metricNacks         = "istio_ztunnel_xds_nacks_total"
	metricRejected      = "istio_ztunnel_xds_rejected_resources_total"
	metricUnchanged     = "istio_ztunnel_xds_unchanged_resources_total"
	metricResources     = "istio_ztunnel_xds_resources"
	metricApplyDuration = "istio_ztunnel_xds_apply_duration_seconds"
	metricBackoff       = "istio_ztunnel_xds_connect_backoff_seconds"
	metricDemands       = "istio_ztunnel_xds_demand_total"
	metricDemandWait    = "istio_ztunnel_xds_demand_wait_seconds"
)

// otherType is the label url of types that nobody asked for: their names have no bound.
const otherType = "other"

var (
	applyBuckets  = []float64{.0001, .001, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10}
	demandBuckets = []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
)

// counts is what a client has counted. It may be used by any goroutine.
type counts struct {
	mu        sync.Mutex
	ends      map[string]int64
	connected bool
	backoff   time.Duration
	streams   int // opened
	types     map[string]*typeCounts
	order     []string // type URLs
	unknown   int64    // messages of types that nobody asked for
	demands   map[DemandResult]int64

	applyDuration, demandWait metric.Float64Histogram // nil unless registered
}

// typeCounts is what is counted of one type.
type typeCounts struct {
	messages, bytes, nacks, rejected, unchanged int64
	resources                                   int64
	lastMessage, lastAck                        time.Time
	label                                       metric.MeasurementOption // its URL
}

func (c *counts) init(types []*resourceType) {
	c.ends = make(map[string]int64)
	c.types = make(map[string]*typeCounts)
	for _, t := range types {
		c.types[t.URL] = &typeCounts{label: metric.WithAttributeSet(attribute.NewSet(attribute.String("url", t.URL)))}
		c.order = append(c.order, t.URL)
		if t.demands != nil {
			c.demands = make(map[DemandResult]int64)
			for _, r := range demandResults {
				c.demands[r] = 0
			}
		}
	}
}

func (c *counts) connect(connected bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connected = connected
	if connected {
		c.backoff = 0
		c.streams++
	}
}

func (c *counts) ended(reason string, pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends[reason]++
	c.backoff = pause
}

func (c *counts) unheard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unknown++
}

func (c *counts) applied(t *resourceType, b *Batch, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, now := c.types[t.URL], time.Now()
	n.messages++
	n.bytes += int64(b.bytes)
	n.rejected += int64(b.rejected.count)
	n.unchanged += int64(b.same)
	n.resources = int64(t.retained.len())
	n.lastMessage = now
	if b.rejected.count > 0 {
		n.nacks++
	} else {
		n.lastAck = now
	}
	if c.applyDuration != nil {
		c.applyDuration.Record(context.Background(), took.Seconds(), n.label)
	}
}

func (c *counts) demanded(r DemandResult, waited time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.demands[r]++
	if c.demandWait != nil && r != DemandCached && r != DemandRefused {
		c.demandWait.Record(context.Background(), waited.Seconds())
	}
}

// instruments are what a client reports when it is asked.
type instruments struct {
	ends, messages, bytes, nacks, rejected, unchanged, demands metric.Int64ObservableCounter
	connected, resources                                       metric.Int64ObservableGauge
	lastMessage, lastAck, backoff                              metric.Float64ObservableGauge
}

// Register makes the client report through the meter. It must be called before Run. What cannot be registered is in the
// error.
func (c *Client) Register(meter metric.Meter) error {
	var errs []error
	counter := func(name, unit, help string) metric.Int64ObservableCounter {
		i, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(help))
		errs = append(errs, err)
		return i
	}
	gauge := func(name, help string) metric.Int64ObservableGauge {
		i, err := meter.Int64ObservableGauge(name, metric.WithDescription(help))
		errs = append(errs, err)
		return i
	}
	seconds := func(name, help string) metric.Float64ObservableGauge {
		i, err := meter.Float64ObservableGauge(name, metric.WithUnit("s"), metric.WithDescription(help))
		errs = append(errs, err)
		return i
	}
	histogram := func(name, help string, buckets []float64) metric.Float64Histogram {
		i, err := meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(help), metric.WithExplicitBucketBoundaries(buckets...))
		errs = append(errs, err)
		return i
	}
	in := &instruments{
		ends:        counter(metricTerminations, "", "The total number of streams to the control plane that ended, by reason"),
		messages:    counter(metricMessages, "", "The total number of responses of the control plane, by type"),
		bytes:       counter(metricMessageBytes, "By", "The total size of the resources in responses of the control plane, by type"),
		nacks:       counter(metricNacks, "", "The total number of responses of the control plane that were rejected, by type"),
		rejected:    counter(metricRejected, "", "The total number of resources that were rejected, by type"),
		unchanged:   counter(metricUnchanged, "", "The total number of resources that were received in the version in force, by type"),
		connected:   gauge(metricConnected, "Whether there is a stream to the control plane"),
		resources:   gauge(metricResources, "The number of resources of the control plane in force, by type"),
		lastMessage: seconds(metricLastMessage, "When the last response of the control plane came, as Unix time, by type"),
		lastAck:     seconds(metricLastAck, "When the last response of the control plane was accepted, as Unix time, by type"),
		backoff:     seconds(metricBackoff, "The pause before the next attempt to reach the control plane, 0 while connected"),
	}
	observed := []metric.Observable{
		in.ends, in.messages, in.bytes, in.nacks, in.rejected, in.unchanged, in.connected, in.resources,
		in.lastMessage, in.lastAck, in.backoff,
	}
	c.counts.applyDuration = histogram(metricApplyDuration, "The time to put a response of the control plane into force, by type", applyBuckets)
	if c.counts.demands != nil {
		in.demands = counter(metricDemands, "", "The total number of addresses that were asked for on demand, by result")
		observed = append(observed, in.demands)
		c.counts.demandWait = histogram(metricDemandWait, "The time that connections waited for what they asked for on demand", demandBuckets)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		c.counts.observe(o, in, c.cfg.Address)
		return nil
	}, observed...)
	return err
}

// observe reports everything once. As in the reference, what never happened is not there.
func (c *counts) observe(o metric.Observer, in *instruments, address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	connected := int64(0)
	if c.connected {
		connected = 1
	}
	o.ObserveInt64(in.connected, connected, metric.WithAttributes(attribute.String("address", address)))
	o.ObserveFloat64(in.backoff, c.backoff.Seconds())
	for reason, n := range c.ends {
		o.ObserveInt64(in.ends, n, metric.WithAttributes(attribute.String("reason", reason)))
	}
	for _, n := range c.types {
		with := n.label
		o.ObserveInt64(in.resources, n.resources, with)
		o.ObserveInt64(in.nacks, n.nacks, with)
		o.ObserveInt64(in.rejected, n.rejected, with)
		o.ObserveInt64(in.unchanged, n.unchanged, with)
		if n.messages == 0 {
			continue
		}
		o.ObserveInt64(in.messages, n.messages, with)
		o.ObserveInt64(in.bytes, n.bytes, with)
		o.ObserveFloat64(in.lastMessage, unixSeconds(n.lastMessage), with)
		if !n.lastAck.IsZero() {
			o.ObserveFloat64(in.lastAck, unixSeconds(n.lastAck), with)
		}
	}
	if c.unknown > 0 {
		o.ObserveInt64(in.messages, c.unknown, metric.WithAttributes(attribute.String("url", otherType)))
	}
	for result, n := range c.demands {
		o.ObserveInt64(in.demands, n, metric.WithAttributes(attribute.String("result", string(result))))
	}
}

func unixSeconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
