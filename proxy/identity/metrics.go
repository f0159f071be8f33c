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

	"ztunnel/telemetry/connection"
)

// The metrics of a Manager and of a CRL.
const (
	metricCertExpiry  = "istio_cert_expiry_timestamp_seconds"
	metricRootExpiry  = "istio_ztunnel_root_cert_expiry_timestamp_seconds"
	metricCerts       = "istio_ztunnel_certs"
	metricRefused     = "istio_ztunnel_identities_refused_total"
	metricCSRs        = "istio_ztunnel_csr_total"
	metricCSRDuration = "istio_ztunnel_csr_duration_seconds"

	metricCRLRejected   = "istio_crl_policy_rejections_total"
	metricCRLUntracked  = "istio_crl_untracked_connections_total"
	metricCRLState      = "istio_ztunnel_crl_state"
	metricCRLLoads      = "istio_ztunnel_crl_loads_total"
	metricCRLRevoked    = "istio_ztunnel_crl_revoked_certificates"
	metricCRLLoaded     = "istio_ztunnel_crl_loaded_timestamp_seconds"
	metricCRLNextUpdate = "istio_ztunnel_crl_next_update_timestamp_seconds"
	metricCRLTracked    = "istio_ztunnel_crl_tracked_connections"
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

// maker makes observable instruments and keeps the errors of that.
type maker struct {
	meter metric.Meter
	errs  []error
}

func (k *maker) gauge(name, unit, help string) metric.Int64ObservableGauge {
	g, err := k.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(help))
	k.errs = append(k.errs, err)
	return g
}

func (k *maker) counter(name, help string) metric.Int64ObservableCounter {
	c, err := k.meter.Int64ObservableCounter(name, metric.WithDescription(help))
	k.errs = append(k.errs, err)
	return c
}

// Register makes the Manager report through the meter. It must be called before Run, with one meter. What cannot be
// registered is in the error.
func (m *Manager) Register(meter metric.Meter) error {
	k := &maker{meter: meter}
	in := &instruments{
		certExpiry: k.gauge(metricCertExpiry, "s", "When the certificate of an identity expires, as Unix time"),
		rootExpiry: k.gauge(metricRootExpiry, "s", "When a root certificate that came with a certificate expires, as Unix time"),
		certs:      k.gauge(metricCerts, "", "The number of identities held, by state"),
		csrs:       k.counter(metricCSRs, "The total number of requests to the CA, by result and gRPC code"),
		refused:    k.counter(metricRefused, "The total number of requests for an identity beyond the limit"),
	}
	var err error
	m.duration, err = meter.Float64Histogram(metricCSRDuration, metric.WithUnit("s"),
		metric.WithDescription("The time of a request to the CA, by result"), metric.WithExplicitBucketBoundaries(csrBuckets...))
	if err := errors.Join(append(k.errs, err)...); err != nil {
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

// crlInstruments are what a CRL reports when it is asked.
type crlInstruments struct {
	state, revoked, loaded, nextUpdate, tracked metric.Int64ObservableGauge
	rejected, untracked, loads                  metric.Int64ObservableCounter
}

// Register makes the CRL report through the meter. What cannot be registered is in the error. A nil CRL reports nothing.
func (c *CRL) Register(meter metric.Meter) error {
	if c == nil {
		return nil
	}
	k := &maker{meter: meter}
	in := &crlInstruments{
		rejected:   k.counter(metricCRLRejected, "The total number of connections refused or torn down because of a revoked certificate"),
		untracked:  k.counter(metricCRLUntracked, "The total number of connections that a later revocation cannot tear down"),
		loads:      k.counter(metricCRLLoads, "The total number of times that the file of revocation lists changed, by result"),
		state:      k.gauge(metricCRLState, "", "The state of the file of revocation lists: 1 for the one it is in"),
		revoked:    k.gauge(metricCRLRevoked, "", "The number of revoked certificates in the revocation lists in force"),
		loaded:     k.gauge(metricCRLLoaded, "s", "When the revocation lists in force were loaded, as Unix time"),
		nextUpdate: k.gauge(metricCRLNextUpdate, "s", "When the first of the revocation lists in force should have been replaced, as Unix time"),
		tracked:    k.gauge(metricCRLTracked, "", "The number of connections watched for revocation"),
	}
	if err := errors.Join(k.errs...); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		c.collect(o, in)
		return nil
	}, in.rejected, in.untracked, in.loads, in.state, in.revoked, in.loaded, in.nextUpdate, in.tracked)
	return err
}

// crlStates are the values of the label state.
var crlStates = map[crlState]string{crlLoaded: "loaded", crlMissing: "missing", crlInvalid: "invalid"}

// collect observes everything once.
func (c *CRL) collect(o metric.Observer, in *crlInstruments) {
	c.mu.Lock()
	tracking := c.tracking
	c.mu.Unlock()
	for i := range reporters {
		reporter := metric.WithAttributes(attribute.Stringer("reporter", connection.Reporter(i)))
		o.ObserveInt64(in.rejected, int64(c.rejected[i].Load()), reporter)
		o.ObserveInt64(in.untracked, int64(c.lost[i].Load()), reporter)
		o.ObserveInt64(in.tracked, tracking[i], reporter)
	}
	for i, result := range [...]string{loadSuccess: "success", loadError: "error"} {
		o.ObserveInt64(in.loads, int64(c.loads[i].Load()), metric.WithAttributes(attribute.String("result", result)))
	}
	for state, name := range crlStates {
		var is int64
		if c.file.state.Load() == state {
			is = 1
		}
		o.ObserveInt64(in.state, is, metric.WithAttributes(attribute.String("state", name)))
	}
	lists := c.lists.Load()
	if lists == nil {
		return
	}
	o.ObserveInt64(in.revoked, int64(lists.entries))
	o.ObserveInt64(in.loaded, lists.loaded.Unix())
	if !lists.nextUpdate.IsZero() {
		o.ObserveInt64(in.nextUpdate, lists.nextUpdate.Unix())
	}
}
