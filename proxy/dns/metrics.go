package dns

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/metric"
)

// Register makes the metrics of the server known to a meter: queries that were
// refused, as istio_ztunnel_dns_refused_total.
func (s *Server) Register(meter metric.Meter) error {
	_, err := meter.Int64ObservableCounter("istio_ztunnel_dns_refused_total",
		metric.WithDescription("The total number of DNS queries refused because too many were waiting"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(s.Refused()))
			return nil
		}))
	if err != nil {
		return fmt.Errorf("register dns metrics: %w", err)
	}
	return nil
}
