// Package connectiontest reads, for tests, what a connection.Recorder counts.
package connectiontest

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"ztunnel/telemetry/connection"
)

// Labels are names and values that a series must have; it may have more.
type Labels map[string]string

// Metrics are the families of one recorder.
type Metrics struct {
	reader *metric.ManualReader
}

// New registers a recorder.
func New(tb testing.TB, r *connection.Recorder) *Metrics {
	tb.Helper()
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader), metric.WithCardinalityLimit(0))
	if err := r.Register(provider.Meter("test")); err != nil {
		tb.Fatal(err)
	}
	return &Metrics{reader}
}

// Sum is the sum of the series of a family that have the labels.
func (m *Metrics) Sum(tb testing.TB, family string, want Labels) int64 {
	tb.Helper()
	var all metricdata.ResourceMetrics
	if err := m.reader.Collect(context.Background(), &all); err != nil {
		tb.Fatal(err)
	}
	var sum int64
	for _, scope := range all.ScopeMetrics {
		for _, f := range scope.Metrics {
			if f.Name != family {
				continue
			}
			switch data := f.Data.(type) {
			case metricdata.Sum[int64]:
				sum += add(data.DataPoints, want)
			case metricdata.Gauge[int64]:
				sum += add(data.DataPoints, want)
			}
		}
	}
	return sum
}

func add(points []metricdata.DataPoint[int64], want Labels) (sum int64) {
	for _, p := range points {
		if want.in(p.Attributes) {
			sum += p.Value
		}
	}
	return sum
}

func (l Labels) in(set attribute.Set) bool {
	for name, value := range l {
		if got, ok := set.Value(attribute.Key(name)); !ok || got.AsString() != value {
			return false
		}
	}
	return true
}
