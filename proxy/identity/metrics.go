package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// The metrics of a Manager.
const (
	metricCertExpiry  = "istio_cert_expiry_timestamp_seconds"
	metricRootExpiry  = "istio_ztunnel_root_cert_expiry_timestamp_seconds"
	metricCerts       = "istio_ztunnel_certs"
	metricRefused     = "istio_ztunnel_identities_refused_total"
	metricCSRs        = "istio_ztunnel_csr_total"
	metricCSRDuration = "istio_ztunnel_csr_duration_seconds"
)

// csrBuckets are those of metricCSRDuration, in seconds: from a CA in the process to the default timeout.
var csrBuckets = []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// instruments are what a Manager reports when it is asked.
type instruments struct {
	certExpiry, rootExpiry, certs metric.Int64ObservableGauge
	csrs, refused                 metric.Int64ObservableCounter
}

// histogram is the instrument of the one metric that is recorded when it happens.
type histogram = metric.Float64Histogram

// Register makes the Manager report through the meter. It must be called before Run, with one meter. What cannot be
// registered is in the error.
func (m *Manager) Register(meter metric.Meter) error {
	var errs []error
	gauge := func(name, unit, help string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(help))
		errs = append(errs, err)
		return g
	}
	counter := func(name, help string) metric.Int64ObservableCounter {
		c, err := meter.Int64ObservableCounter(name, metric.WithDescription(help))
		errs = append(errs, err)
		return c
	}
	in := &instruments{
		certExpiry: gauge(metricCertExpiry, "s", "When the certificate of an identity expires, as Unix time"),
		rootExpiry: gauge(metricRootExpiry, "s", "When a root certificate that came with a certificate expires, as Unix time"),
		certs:      gauge(metricCerts, "", "The number of identities held, by state"),
		csrs:       counter(metricCSRs, "The total number of requests to the CA, by result and gRPC code"),
		refused:    counter(metricRefused, "The total number of requests for an identity beyond the limit"),
	}
	var err error
	m.duration, err = meter.Float64Histogram(metricCSRDuration, metric.WithUnit("s"),
		metric.WithDescription("The time of a request to the CA, by result"), metric.WithExplicitBucketBoundaries(csrBuckets...))
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		m.collect(o, in)
		return nil
	}, in.certExpiry, in.rootExpiry, in.certs, in.csrs, in.refused)
	return err
}

// collect observes everything once.
func (m *Manager) collect(o metric.Observer, in *instruments) {
	states := map[string]int64{"initializing": 0, "available": 0, "unavailable": 0}
	roots := make(map[string]int64)
	for _, h := range m.snapshot() {
		switch {
		case h.cert != nil:
			states["available"]++
			o.ObserveInt64(in.certExpiry, h.cert.NotAfter().Unix(), metric.WithAttributes(attribute.String("identity", h.id)))
			for _, root := range h.cert.roots {
				sum := sha256.Sum256(root.Raw)
				roots[hex.EncodeToString(sum[:8])] = root.NotAfter.Unix()
			}
		case h.err != nil:
			states["unavailable"]++
		default:
			states["initializing"]++
		}
	}
	for fingerprint, expiry := range roots {
		o.ObserveInt64(in.rootExpiry, expiry, metric.WithAttributes(attribute.String("fingerprint", fingerprint)))
	}
	for state, n := range states {
		o.ObserveInt64(in.certs, n, metric.WithAttributes(attribute.String("state", state)))
	}
	m.mu.Lock()
	results, refused := maps.Clone(m.results), m.refused
	m.mu.Unlock()
	for code, n := range results {
		o.ObserveInt64(in.csrs, int64(n), metric.WithAttributes(attribute.String("result", csrResult(code)), attribute.String("code", code)))
	}
	o.ObserveInt64(in.refused, int64(refused))
}

// requestEnded counts a request to the CA. The caller holds the lock.
func (m *Manager) requestEnded(err error, d time.Duration) {
	code := csrCode(err)
	m.results[code]++
	if m.duration != nil {
		m.duration.Record(context.Background(), d.Seconds(), metric.WithAttributes(attribute.String("result", csrResult(code))))
	}
}

// csrResult is the value of the label result for a gRPC code.
func csrResult(code string) string {
	if code == "OK" {
		return "success"
	}
	return "error"
}
