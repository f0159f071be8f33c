package logging

import (
	"context"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"ztunnel/telemetry/catalog"
)

// collect is all points of a meter provider by name and labels.
func collect(t *testing.T, reader *metric.ManualReader) map[string]int64 {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	points := map[string]int64{}
	add := func(name string, dps []metricdata.DataPoint[int64]) {
		for _, p := range dps {
			points[name+"{"+p.Attributes.Encoded(attribute.DefaultEncoder())+"}"] = p.Value
		}
	}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			if want := catalog.Help(m.Name); m.Description != want || want == "" {
				t.Errorf("description of %s = %q, want %q as in the catalog", m.Name, m.Description, want)
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				add(m.Name, data.DataPoints)
			case metricdata.Gauge[int64]:
				add(m.Name, data.DataPoints)
			}
		}
	}
	return points
}

func TestMetrics(t *testing.T) {
	l, err := New(Config{Output: io.Discard, QueueLines: 2})
	if err != nil {
		t.Fatal(err)
	}
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	defer provider.Shutdown(context.Background())
	if err := l.Register(provider.Meter("test")); err != nil {
		t.Fatal(err)
	}
	l.Logger("state").Warn("one")
	access := l.Logger("access")
	access.Info("two")
	access.Info("dropped")
	access.Debug("not logged")
	want := map[string]int64{
		"istio_ztunnel_log_lines_total{level=warn,scope=state}":                 1,
		"istio_ztunnel_log_lines_total{level=info,scope=access}":                1,
		"istio_ztunnel_log_lines_dropped_total{reason=queue_full,scope=access}": 1,
		"istio_ztunnel_log_queue_length{}":                                      2,
		"istio_ztunnel_log_write_errors_total{}":                                0,
	}
	if diff := cmp.Diff(want, collect(t, reader)); diff != "" {
		t.Errorf("metrics differ (-want +got):\n%s", diff)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, reader)["istio_ztunnel_log_queue_length{}"]; got != 0 {
		t.Errorf("queue length after Close = %d, want 0", got)
	}
}
