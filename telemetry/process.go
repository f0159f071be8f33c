package telemetry

import (
	"cmp"
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sys/unix"

	"ztunnel/telemetry/catalog"
)

// runtimeMetrics are the families of runtime/metrics that are added to the
// standard ones of the Go collector: what tells why a proxy is slow. Their
// histograms have a bounded set of buckets.
var runtimeMetrics = regexp.MustCompile(`^/(sched/latencies:seconds|sched/pauses/total/gc:seconds|sync/mutex/wait/total:seconds|gc/cycles/total:gc-cycles|cpu/classes/(gc/total|idle|user|total):cpu-seconds)$`)

// registerRuntime adds the go_ families and all process_ families but the two of
// descriptors.
func registerRuntime(r *prometheus.Registry) error {
	err := errors.Join(
		// OpenMetrics declares counters without _total, so a gauge and a counter
		// of the same name clash; the gauge is also called go_memstats_heap_alloc_bytes.
		r.Register(without{
			collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: runtimeMetrics})),
			[]string{"go_memstats_alloc_bytes"},
		}),
		// Our gauges of descriptors have the reference's semantics and are
		// pushed as well.
		r.Register(without{collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), []string{catalog.OpenFDs, catalog.MaxFDs}}),
	)
	if err != nil {
		return fmt.Errorf("register runtime metrics: %w", err)
	}
	return nil
}

// without leaves families out of what a collector collects.
type without struct {
	prometheus.Collector
	names []string
}

func (c without) keeps(d *prometheus.Desc) bool {
	s := d.String() // the only way to learn the name
	return !slices.ContainsFunc(c.names, func(name string) bool { return strings.Contains(s, `"`+name+`"`) })
}

// Describe implements [prometheus.Collector].
func (c without) Describe(ch chan<- *prometheus.Desc) {
	through(c.Collector.Describe, func(d *prometheus.Desc) {
		if c.keeps(d) {
			ch <- d
		}
	})
}

// Collect implements [prometheus.Collector].
func (c without) Collect(ch chan<- prometheus.Metric) {
	through(c.Collector.Collect, func(m prometheus.Metric) {
		if c.keeps(m.Desc()) {
			ch <- m
		}
	})
}

// through calls receive with all that send sends, and returns when both are
// done. What panics in send panics in the caller, as without it.
func through[T any](send func(chan<- T), receive func(T)) {
	all := make(chan T, 64)
	var receiving sync.WaitGroup
	receiving.Go(func() {
		for v := range all {
			receive(v)
		}
	})
	defer receiving.Wait()
	defer close(all)
	send(all)
}

// registerOwn registers the families of this package.
func registerOwn(meter metric.Meter, cfg *Config, push *pusher, log *slog.Logger) error {
	var errs []error
	var all []metric.Observable
	gauge := func(name string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithDescription(catalog.Help(name)))
		errs, all = append(errs, err), append(all, g)
		return g
	}
	build, info, open, limit := gauge(catalog.Build), gauge(catalog.BuildInfo), gauge(catalog.OpenFDs), gauge(catalog.MaxFDs)
	uptime, err := meter.Float64ObservableGauge(catalog.Uptime, metric.WithDescription(catalog.Help(catalog.Uptime)), metric.WithUnit("s"))
	errs, all = append(errs, err), append(all, uptime)
	pushes, err := meter.Int64ObservableCounter(catalog.Pushes, metric.WithDescription(catalog.Help(catalog.Pushes)))
	if err = errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("create process metrics: %w", err)
	}
	all = append(all, pushes)

	started, now := cfg.Now(), cfg.Now
	buildLabels := metric.WithAttributes(attribute.String("component", "ztunnel"), attribute.String("tag", cmp.Or(cfg.IstioVersion, "unknown")))
	infoLabels := metric.WithAttributes(cfg.Build.labels()...)
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(build, 1, buildLabels)
		o.ObserveInt64(info, 1, infoLabels)
		o.ObserveInt64(open, openFDs(log))
		o.ObserveInt64(limit, maxFDs(log))
		o.ObserveFloat64(uptime, now().Sub(started).Seconds())
		push.observe(o, pushes)
		return nil
	}, all...)
	if err != nil {
		return fmt.Errorf("register process metrics: %w", err)
	}
	return nil
}

func (b *Build) labels() []attribute.KeyValue {
	crypto := "go"
	if fips140.Enabled() {
		crypto = "fips140"
	}
	return []attribute.KeyValue{
		attribute.String("version", cmp.Or(b.Version, "unknown")), attribute.String("revision", cmp.Or(b.Revision, "unknown")),
		attribute.String("go_version", cmp.Or(b.GoVersion, runtime.Version())), attribute.String("crypto", cmp.Or(b.Crypto, crypto)),
	}
}

// openFDs counts our descriptors, without one for the counting. Like the
// reference it reports 0 and logs if that is impossible.
func openFDs(log *slog.Logger) int64 {
	const dir = "/proc/self/fd"
	// Since Linux 6.2 the directory's size is the number, which spares reading
	// a directory that may have a hundred thousand entries.
	if info, err := os.Stat(dir); err == nil && info.Size() > 0 {
		return info.Size()
	}
	d, err := os.Open(dir)
	if err == nil {
		defer d.Close()
		var names []string
		if names, err = d.Readdirnames(-1); err == nil {
			return int64(len(names) - 1)
		}
	}
	log.Error("count open descriptors", "error", err)
	return 0
}

// maxFDs is the soft limit of descriptors.
func maxFDs(log *slog.Logger) int64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		log.Error("read the limit of descriptors", "error", err)
		return 0
	}
	return int64(limit.Cur)
}
