package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/otel/attribute"
	promexporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"

	"ztunnel/telemetry/catalog"
)

// shutdownTimeout bounds Shutdown if its context has no deadline.
const shutdownTimeout = 5 * time.Second

// Config configures [Setup].
type Config struct {
	// Log receives the few lines of this package, such as a collector that
	// does not answer. Nil writes none.
	Log *slog.Logger
	// IstioVersion is the tag of istio_build; empty is "unknown".
	IstioVersion string
	// Build is our own build.
	Build Build
	// Resource describes the process to OTLP; it never becomes a label.
	Resource Resource
	// Disable are regular expressions. A family whose whole name one of them
	// matches is not exported. They hold for all instruments of the meters,
	// not for go_ and process_ families.
	Disable []string
	// OTLP is the push of metrics.
	OTLP OTLP
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Build describes our own build for ztunnel_build_info. What is empty is taken
// from the running binary or is "unknown".
type Build struct {
	Version, Revision, GoVersion, Crypto string
}

// Resource are the attributes of the process in OTLP. Empty ones are left out.
type Resource struct {
	ServiceName string // empty is "ztunnel"
	// Namespace is of the pod; it is also the namespace of the service, which
	// is istio-system if it is empty.
	Namespace          string
	Node, Pod, Cluster string
	// More are further attributes. They do not override those above.
	More map[string]string
}

// Telemetry is the set-up machinery. It is safe for concurrent use.
type Telemetry struct {
	provider *sdkmetric.MeterProvider
	registry *prometheus.Registry
	help     map[string]string // HELP lines by name, for the catalog's families
	log      *slog.Logger
	ended    atomic.Bool

	scrapes    chan struct{} // a slot for each scrape under way
	scrapeWait time.Duration
	gathering  sync.Mutex // one scrape at a time gathers
	compressor compressors
}

// Setup builds everything and, if OTLP is enabled, begins to push. The caller
// owns the result and must call Shutdown.
func Setup(_ context.Context, cfg Config) (*Telemetry, error) {
	t := &Telemetry{
		registry: prometheus.NewRegistry(),
		help:     map[string]string{},
		log:      cfg.Log,
		scrapes:  make(chan struct{}, maxScrapes),

		scrapeWait: defaultScrapeWait,
	}
	for _, m := range catalog.All() {
		if !strings.HasPrefix(m.Name, "go_") && !strings.HasPrefix(m.Name, "process_") {
			t.help[m.Name] = m.HelpLine()
		}
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	drop, err := dropViews(cfg.Disable)
	if err != nil {
		return nil, err
	}
	reader, err := newReader(t.registry)
	if err != nil {
		return nil, err
	}
	options := []sdkmetric.Option{
		sdkmetric.WithReader(reader),
		sdkmetric.WithResource(cfg.Resource.attributes(cfg.Build.Version)),
		// What can grow is limited where it is counted: the SDK's own overflow
		// series has none of the labels that consumers insist on.
		sdkmetric.WithCardinalityLimit(0),
		sdkmetric.WithExemplarFilter(exemplar.AlwaysOffFilter),
		sdkmetric.WithView(drop...),
	}
	var push *pusher
	if cfg.OTLP.Enabled {
		if push, err = newPusher(&cfg.OTLP, t.log); err != nil {
			return nil, err
		}
		options = append(options, sdkmetric.WithReader(push.reader(&cfg.OTLP)))
	}
	t.provider = sdkmetric.NewMeterProvider(options...)
	if err := errors.Join(registerRuntime(t.registry), registerOwn(t.Meter("ztunnel"), &cfg, push, t.log)); err != nil {
		return nil, errors.Join(err, t.Shutdown(context.Background()))
	}
	return t, nil
}

// Meter returns the meter of a package. The scope is its import path or name;
// it does not show in the exposition.
func (t *Telemetry) Meter(scope string) metric.Meter { return t.provider.Meter(scope) }

// Shutdown pushes what is left, if anything is pushed, and ends the exporters.
// It returns when ctx ends at the latest, or after five seconds if ctx has no
// deadline. Scrapes fail afterwards.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, shutdownTimeout)
		defer cancel()
	}
	t.ended.Store(true)
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("shut down metrics: %w", err)
	}
	return nil
}

// newReader returns the exporter for Prometheus, which is collected whenever the
// registry is gathered. Names and labels stay as the instruments have them: they
// are valid for Prometheus, which tests of the catalog see to, and every escape
// would cost a map for each series of each scrape.
func newReader(registry *prometheus.Registry) (sdkmetric.Reader, error) {
	exporter, err := promexporter.New(
		promexporter.WithRegisterer(sharing{registry}), promexporter.WithTranslationStrategy(otlptranslator.NoTranslation),
		promexporter.WithoutScopeInfo(), promexporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("create the exporter for Prometheus: %w", err)
	}
	return exporter, nil
}

// dropViews makes a view for each expression that drops what it matches.
func dropViews(patterns []string) ([]sdkmetric.View, error) {
	var views []sdkmetric.View
	for _, p := range patterns {
		re, err := regexp.Compile("^(?:" + p + ")$")
		if err != nil {
			return nil, fmt.Errorf("metrics to disable: %w", err)
		}
		views = append(views, func(i sdkmetric.Instrument) (sdkmetric.Stream, bool) {
			return sdkmetric.Stream{Name: i.Name, Aggregation: sdkmetric.AggregationDrop{}}, re.MatchString(i.Name)
		})
	}
	return views, nil
}

// attributes are all attributes of the process. The provider puts them over what
// it finds in OTEL_RESOURCE_ATTRIBUTES itself, which cannot be switched off; the
// configuration has More from there, so nothing is told twice or differently.
func (r *Resource) attributes(version string) *resource.Resource {
	byName := map[string]string{}
	maps.Copy(byName, r.More)
	for name, value := range map[string]string{
		"service.name": cmp.Or(r.ServiceName, r.More["service.name"], "ztunnel"), "service.namespace": cmp.Or(r.Namespace, "istio-system"),
		"service.version": version, "k8s.node.name": r.Node, "k8s.pod.name": r.Pod,
		"k8s.namespace.name": r.Namespace, "k8s.cluster.name": r.Cluster,
	} {
		if value != "" {
			byName[name] = value
		}
	}
	var kv []attribute.KeyValue
	for name, value := range byName {
		kv = append(kv, attribute.String(name, value))
	}
	return resource.NewSchemaless(kv...)
}
