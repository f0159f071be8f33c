package telemetry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
)

// pushBatch is how many data points go into one request. With 27 labels each
// it stays well below the 4 MiB that gRPC servers accept by default.
const pushBatch = 2000

// OTLP is the push of metrics to a collector: cumulative, under the same names
// and labels as a scrape. The zero value pushes nothing. Everything is said
// here: the exporters would fill gaps from OTEL_… in the environment, so none
// is left to them.
type OTLP struct {
	Enabled bool
	// Protocol is "grpc" or "http/protobuf".
	Protocol string
	// Endpoint is an absolute URL, http or https; for http/protobuf with the
	// path to post to.
	Endpoint string
	Headers  map[string]string
	// Timeout bounds one request; zero is 10 s. Interval is the time between
	// two pushes; zero is 60 s. CollectTimeout bounds collecting and pushing
	// together; zero is 30 s.
	Timeout, Interval, CollectTimeout time.Duration
	// Certificate is a PEM file of the authorities that the server's
	// certificate must come from; empty is the system's.
	Certificate string
	// Insecure speaks without TLS. An http endpoint implies it.
	Insecure bool
	Gzip     bool
	// Dial opens the connections, e.g. through the mesh; nil is a plain dial.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// pusher is an exporter that counts and logs how pushes go. Failures end here:
// the next push carries the totals anyway.
type pusher struct {
	sdkmetric.Exporter
	log        *slog.Logger
	ok, failed atomic.Int64
	failing    atomic.Bool
}

func newPusher(c *OTLP, log *slog.Logger) (*pusher, error) {
	tlsConfig, err := c.tls()
	if err != nil {
		return nil, err
	}
	var e sdkmetric.Exporter
	switch c.Protocol {
	case "grpc":
		e, err = c.grpc(tlsConfig)
	case "http/protobuf":
		e, err = c.http(tlsConfig)
	default:
		err = fmt.Errorf("unknown protocol %q", c.Protocol)
	}
	if err != nil {
		return nil, fmt.Errorf("push by OTLP: %w", err)
	}
	return &pusher{Exporter: e, log: log}, nil
}

// tls returns how to verify the server; nil is without TLS.
func (c *OTLP) tls() (*tls.Config, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("push by OTLP: endpoint %q is not an http or https URL", c.Endpoint)
	}
	if c.Insecure || u.Scheme == "http" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.Certificate != "" {
		pem, err := os.ReadFile(c.Certificate)
		if err != nil {
			return nil, fmt.Errorf("push by OTLP: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("push by OTLP: no certificate in %s", c.Certificate)
		}
	}
	return config, nil
}

func (c *OTLP) timeout() time.Duration { return positive(c.Timeout, 10*time.Second) }

func positive(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

func (c *OTLP) grpc(tlsConfig *tls.Config) (sdkmetric.Exporter, error) {
	options := []otlpmetricgrpc.Option{
		otlpmetricgrpc.WithEndpointURL(c.Endpoint), otlpmetricgrpc.WithHeaders(c.Headers), otlpmetricgrpc.WithTimeout(c.timeout()),
		otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: c.timeout()}),
		otlpmetricgrpc.WithTemporalitySelector(cumulative), otlpmetricgrpc.WithAggregationSelector(sdkmetric.DefaultAggregationSelector),
	}
	// Credentials in any case: those that the environment names would win over
	// the option to do without.
	transport := insecure.NewCredentials()
	if tlsConfig != nil {
		transport = credentials.NewTLS(tlsConfig)
	}
	options = append(options, otlpmetricgrpc.WithTLSCredentials(transport))
	if c.Gzip {
		options = append(options, otlpmetricgrpc.WithCompressor("gzip"))
	} else {
		options = append(options, otlpmetricgrpc.WithDialOption(grpc.WithDefaultCallOptions(grpc.UseCompressor(encoding.Identity))))
	}
	if c.Dial != nil {
		options = append(options, otlpmetricgrpc.WithDialOption(grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return c.Dial(ctx, "tcp", address)
		})))
	}
	return otlpmetricgrpc.New(context.Background(), options...)
}

func (c *OTLP) http(tlsConfig *tls.Config) (sdkmetric.Exporter, error) {
	options := []otlpmetrichttp.Option{
		otlpmetrichttp.WithEndpointURL(c.Endpoint), otlpmetrichttp.WithHeaders(c.Headers), otlpmetrichttp.WithTimeout(c.timeout()),
		otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: c.timeout()}),
		otlpmetrichttp.WithTemporalitySelector(cumulative), otlpmetrichttp.WithAggregationSelector(sdkmetric.DefaultAggregationSelector),
	}
	options = append(options, otlpmetrichttp.WithTLSClientConfig(tlsConfig)) // nil: not that of the environment either
	if tlsConfig == nil {
		options = append(options, otlpmetrichttp.WithInsecure())
	}
	compression := otlpmetrichttp.NoCompression
	if c.Gzip {
		compression = otlpmetrichttp.GzipCompression
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, DialContext: c.Dial, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second, MaxConnsPerHost: 2}
	options = append(options, otlpmetrichttp.WithCompression(compression),
		otlpmetrichttp.WithHTTPClient(&http.Client{Transport: transport, Timeout: c.timeout()}))
	e, err := otlpmetrichttp.New(context.Background(), options...)
	if err != nil {
		return nil, err
	}
	return &closingExporter{Exporter: e, transport: transport}, nil
}

// closingExporter gives up its idle connections when it is shut down.
type closingExporter struct {
	sdkmetric.Exporter
	transport *http.Transport
}

// Shutdown implements the exporter.
func (e *closingExporter) Shutdown(ctx context.Context) error {
	defer e.transport.CloseIdleConnections()
	return e.Exporter.Shutdown(ctx)
}

func cumulative(sdkmetric.InstrumentKind) metricdata.Temporality {
	return metricdata.CumulativeTemporality
}

// reader pushes at intervals, from a goroutine of its own that the provider's
// Shutdown ends.
func (p *pusher) reader(c *OTLP) sdkmetric.Reader {
	return sdkmetric.NewPeriodicReader(p, sdkmetric.WithInterval(positive(c.Interval, time.Minute)),
		sdkmetric.WithTimeout(positive(c.CollectTimeout, 30*time.Second)), sdkmetric.WithMaxExportBatchSize(pushBatch))
}

// Export implements the exporter.
func (p *pusher) Export(ctx context.Context, m *metricdata.ResourceMetrics) error {
	err := p.Exporter.Export(ctx, m)
	switch {
	case err == nil:
		p.ok.Add(1)
		if p.failing.Swap(false) {
			p.log.Info("metrics are pushed again")
		}
	case errors.Is(err, context.Canceled):
		p.failed.Add(1)
	default:
		p.failed.Add(1)
		if !p.failing.Swap(true) { // once for each outage
			p.log.Warn("push metrics", "error", err)
		}
	}
	return nil
}

// observe reports the pushes so far.
func (p *pusher) observe(o metric.Observer, pushes metric.Int64ObservableCounter) {
	if p == nil {
		return
	}
	for result, n := range map[string]int64{"ok": p.ok.Load(), "error": p.failed.Load()} {
		o.ObserveInt64(pushes, n, metric.WithAttributes(attribute.String("exporter", "otlp"), attribute.String("result", result)))
	}
}
