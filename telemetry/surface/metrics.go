package surface

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"ztunnel/telemetry/catalog"
)

// Register makes the metrics of the surface known to a meter: reads by reader,
// surface, status and transport, the exposure, and whether readers can get in
// over tunnels.
func (s *Server) Register(meter metric.Meter) error {
	requests, err1 := meter.Int64ObservableCounter(catalog.SurfaceRequests, metric.WithDescription(catalog.Help(catalog.SurfaceRequests)))
	exposure, err2 := meter.Int64ObservableGauge(catalog.SurfaceExposure, metric.WithDescription(catalog.Help(catalog.SurfaceExposure)))
	ready, err3 := meter.Int64ObservableGauge(catalog.SurfaceReady, metric.WithDescription(catalog.Help(catalog.SurfaceReady)))
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("create metrics of the telemetry surface: %w", err)
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s.audit.observe(o, requests)
		o.ObserveInt64(exposure, 1, metric.WithAttributes(attribute.String("mode", string(s.exposure))))
		var isReady int64
		if s.ready.Load() {
			isReady = 1
		}
		o.ObserveInt64(ready, isReady)
		return nil
	}, requests, exposure, ready)
	if err != nil {
		return fmt.Errorf("register metrics of the telemetry surface: %w", err)
	}
	return nil
}

func (a *audit) observe(o metric.Observer, requests metric.Int64Observable) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, n := range a.requests {
		o.ObserveInt64(requests, int64(n), metric.WithAttributes(
			attribute.String("peer_identity", k.identity), attribute.String("surface", k.surface),
			attribute.String("code", k.code), attribute.String("transport", k.transport)))
	}
}
