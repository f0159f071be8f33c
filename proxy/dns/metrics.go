package dns

import (
	"context"
	"fmt"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"
)

// Metrics counts what one or several servers do. The zero value counts;
// Register shows the counts.
type Metrics struct{ refused atomic.Uint64 }

// Refused is how many queries were turned away because too many were waiting.
func (m *Metrics) Refused() uint64 { return m.refused.Load() }

// Register makes the metrics known to a meter: queries that were refused, as
// istio_ztunnel_dns_refused_total.
func (m *Metrics) Register(meter metric.Meter) error {
	_, err := meter.Int64ObservableCounter("istio_ztunnel_dns_refused_total",
		metric.WithDescription("The total number of DNS queries refused because too many were waiting"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(m.Refused()))
			return nil
		}))
	if err != nil {
		return fmt.Errorf("register dns metrics: %w", err)
	}
	return nil
}

// Register makes the metrics of the server known to a meter.
func (s *Server) Register(meter metric.Meter) error { return s.config.Metrics.Register(meter) }
