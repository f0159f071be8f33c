package local

import (
	"context"
	"fmt"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Metrics counts what became of changes of the local configuration. The zero value counts; Register shows the counts.
type Metrics struct {
	reloaded atomic.Uint64
	refused  atomic.Uint64
}

// Reloaded returns how often a changed configuration was put into force.
func (m *Metrics) Reloaded() uint64 { return m.reloaded.Load() }

// Refused returns how often a changed configuration was bad or could not be read, so that the old one stayed.
func (m *Metrics) Refused() uint64 { return m.refused.Load() }

// Register shows the counts as istio_ztunnel_local_config_reloads_total{result}, with the results "success" and "error".
func (m *Metrics) Register(meter metric.Meter) error {
	success := metric.WithAttributeSet(attribute.NewSet(attribute.String("result", "success")))
	refused := metric.WithAttributeSet(attribute.NewSet(attribute.String("result", "error")))
	_, err := meter.Int64ObservableCounter("istio_ztunnel_local_config_reloads_total",
		metric.WithDescription("Changes of the local configuration file, by whether they were put into force."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(m.Reloaded()), success)
			o.Observe(int64(m.Refused()), refused)
			return nil
		}))
	if err != nil {
		return fmt.Errorf("register local configuration metrics: %w", err)
	}
	return nil
}
