package discovery

import "go.opentelemetry.io/otel/metric"

// Register makes the client's metrics known to a meter. It must be called before Run.
func (d *Discovery) Register(meter metric.Meter) error { return d.client.Register(meter) }
