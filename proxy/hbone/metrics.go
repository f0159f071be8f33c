package hbone

import (
	"context"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Metrics counts events of the tunnels that share it. The data path touches
// these atomics only; [Metrics.Register] makes them visible.
type Metrics struct {
	// Tunnels and Streams are open now, by role.
	ClientTunnels, ServerTunnels atomic.Int64
	ClientStreams, ServerStreams atomic.Int64
	// Queued are the received bytes that wait for applications, by role.
	ClientQueued, ServerQueued atomic.Int64

	// Floods, by what there was too much of. Each ended a tunnel with
	// ENHANCE_YOUR_CALM.
	ControlFloods, ResetFloods, HeaderFloods atomic.Uint64
	// HandshakeTimeouts, HeaderTimeouts, ConnectTimeouts and PingTimeouts count
	// stages that took too long.
	HandshakeTimeouts, HeaderTimeouts, ConnectTimeouts, PingTimeouts atomic.Uint64
	// ProtocolErrors counts tunnels ended for another fault of the peer.
	ProtocolErrors atomic.Uint64
	// StreamsRefused counts streams above the limit.
	StreamsRefused atomic.Uint64
}

// Register makes the metrics observable by a meter, under names that begin with
// istio_ztunnel_hbone.
func (m *Metrics) Register(meter metric.Meter) error {
	tunnels, err := meter.Int64ObservableGauge("istio_ztunnel_hbone_tunnels", metric.WithDescription("Open HBONE tunnels by role."))
	if err != nil {
		return err
	}
	streams, err := meter.Int64ObservableGauge("istio_ztunnel_hbone_streams", metric.WithDescription("Open HBONE streams by role."))
	if err != nil {
		return err
	}
	queued, err := meter.Int64ObservableGauge("istio_ztunnel_hbone_queued_bytes",
		metric.WithDescription("Received bytes that wait for applications by role."), metric.WithUnit("By"))
	if err != nil {
		return err
	}
	faults, err := meter.Int64ObservableCounter("istio_ztunnel_hbone_faults_total",
		metric.WithDescription("Limits, deadlines and rules of HBONE tunnels that peers have broken, by kind."))
	if err != nil {
		return err
	}
	role := func(name string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("role", name)))
	}
	client, server := role("client"), role("server")
	kinds := m.faults()
	attrs := make([]metric.MeasurementOption, len(kinds))
	for i, k := range kinds {
		attrs[i] = metric.WithAttributeSet(attribute.NewSet(attribute.String("kind", k.name)))
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(tunnels, m.ClientTunnels.Load(), client)
		o.ObserveInt64(tunnels, m.ServerTunnels.Load(), server)
		o.ObserveInt64(streams, m.ClientStreams.Load(), client)
		o.ObserveInt64(streams, m.ServerStreams.Load(), server)
		o.ObserveInt64(queued, m.ClientQueued.Load(), client)
		o.ObserveInt64(queued, m.ServerQueued.Load(), server)
		for i, k := range kinds {
			o.ObserveInt64(faults, int64(k.count.Load()), attrs[i])
		}
		return nil
	}, tunnels, streams, queued, faults)
	return err
}

type fault struct {
	name  string
	count *atomic.Uint64
}

// faults is the closed set of the label kind.
func (m *Metrics) faults() []fault {
	return []fault{
		{"control_flood", &m.ControlFloods},
		{"reset_flood", &m.ResetFloods},
		{"header_flood", &m.HeaderFloods},
		{"handshake_timeout", &m.HandshakeTimeouts},
		{"header_timeout", &m.HeaderTimeouts},
		{"connect_timeout", &m.ConnectTimeouts},
		{"ping_timeout", &m.PingTimeouts},
		{"protocol_error", &m.ProtocolErrors},
		{"stream_refused", &m.StreamsRefused},
	}
}
