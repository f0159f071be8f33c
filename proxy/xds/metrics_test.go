package xds

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ztunnel/telemetry/catalog"
)

// collect reads all series, as "name{values} value". Times and durations are not told, only that they are there.
func collect(t *testing.T, reader *sdk.ManualReader) []string {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	var list []string
	add := func(name string, labels attribute.Set, value any) {
		var values []string
		for _, kv := range labels.ToSlice() {
			values = append(values, kv.Value.AsString())
		}
		list = append(list, fmt.Sprintf("%s{%s} %v", name, strings.Join(values, ","), value))
	}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Gauge[int64]:
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, map[bool]string{true: "positive", false: "0"}[p.Value > 0])
				}
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, fmt.Sprintf("count %d", p.Count))
				}
			}
		}
	}
	slices.Sort(list)
	return list
}

func TestMetrics(t *testing.T) {
	reader := sdk.NewManualReader()
	onDemandWith(t, func(c *Client) {
		if err := c.Register(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")); err != nil {
			t.Fatal(err)
		}
	}, func(w *world) {
		zero := []string{
			`istio_ztunnel_xds_connect_backoff_seconds{} 0`,
			`istio_ztunnel_xds_connected{https://istiod:15012} 0`,
		}
		for _, r := range demandResults {
			zero = append(zero, fmt.Sprintf("istio_ztunnel_xds_demand_total{%s} 0", r))
		}
		for _, name := range []string{"nacks_total", "rejected_resources_total", "resources", "unchanged_resources_total"} {
			zero = append(zero, "istio_ztunnel_xds_"+name+"{"+policyType+"} 0", "istio_ztunnel_xds_"+name+"{"+thingType+"} 0")
		}
		slices.Sort(zero)
		if diff := cmp.Diff(zero, collect(t, reader)); diff != "" {
			t.Errorf("before anything happened (-want +got):\n%s", diff)
		}

		st, _, _ := w.open()
		w.accepts(st, push(policyType, nil, res("p=12345"), res("q=1")))
		w.say(st, push(policyType, []string{"q"}, res("p=bad"), res("r=bad")))
		w.accepts(st, push("type.example/Unheard", nil))
		w.accepts(st, push("type.example/Another", nil))
		done := w.demand("pod")
		st.Recv(w)
		w.accepts(st, push(thingType, nil, res("pod=1@aa82bef832db85c6")))
		w.expectResult(done, DemandFound)
		w.accepts(st, push(thingType, nil, res("pod=1@aa82bef832db85c6")))
		w.plane.Refuse(status.Error(codes.Unavailable, "x"))
		st.End(status.Error(codes.Internal, "x"))
		synctest.Wait()
		want := []string{
			`istio_xds_connection_terminations_total{Error} 1`,
			`istio_xds_message_bytes_total{type.example/Policy} 12`,
			`istio_xds_message_bytes_total{type.example/Thing} 2`,
			`istio_xds_message_total{other} 2`,
			`istio_xds_message_total{type.example/Policy} 2`,
			`istio_xds_message_total{type.example/Thing} 2`,
			`istio_ztunnel_xds_apply_duration_seconds{type.example/Policy} count 2`,
			`istio_ztunnel_xds_apply_duration_seconds{type.example/Thing} count 2`,
			`istio_ztunnel_xds_connect_backoff_seconds{} positive`,
			`istio_ztunnel_xds_connected{https://istiod:15012} 0`,
			`istio_ztunnel_xds_demand_total{found} 1`,
			`istio_ztunnel_xds_demand_wait_seconds{} count 1`,
			`istio_ztunnel_xds_last_ack_timestamp_seconds{type.example/Policy} positive`,
			`istio_ztunnel_xds_last_ack_timestamp_seconds{type.example/Thing} positive`,
			`istio_ztunnel_xds_last_message_timestamp_seconds{type.example/Policy} positive`,
			`istio_ztunnel_xds_last_message_timestamp_seconds{type.example/Thing} positive`,
			`istio_ztunnel_xds_nacks_total{type.example/Policy} 1`,
			`istio_ztunnel_xds_nacks_total{type.example/Thing} 0`,
			`istio_ztunnel_xds_rejected_resources_total{type.example/Policy} 2`,
			`istio_ztunnel_xds_rejected_resources_total{type.example/Thing} 0`,
			`istio_ztunnel_xds_resources{type.example/Policy} 1`,
			`istio_ztunnel_xds_resources{type.example/Thing} 1`,
			`istio_ztunnel_xds_unchanged_resources_total{type.example/Policy} 0`,
			`istio_ztunnel_xds_unchanged_resources_total{type.example/Thing} 1`,
		}
		for _, r := range demandResults {
			if r != DemandFound {
				want = append(want, fmt.Sprintf("istio_ztunnel_xds_demand_total{%s} 0", r))
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, collect(t, reader)); diff != "" {
			t.Errorf("series (-want +got):\n%s", diff)
		}
	})
}

// The names are those of the catalog.
func TestMetricsAreInTheCatalog(t *testing.T) {
	for _, name := range []string{
		metricTerminations, metricMessages, metricMessageBytes, metricConnected, metricLastMessage, metricLastAck, metricNacks,
		metricRejected, metricUnchanged, metricResources, metricApplyDuration, metricBackoff, metricDemands, metricDemandWait,
	} {
		if _, ok := catalog.Find(name); !ok {
			t.Errorf("%s is not in the catalog", name)
		}
	}
}

// What is counted for each response costs no memory: a busy control plane sends a thousand in a second.
func TestMetrics_AppliedAllocatesNothing(t *testing.T) {
	c := New(Config{Types: []Type{{URL: thingType, Handler: newTable()}}})
	if err := c.Register(sdk.NewMeterProvider(sdk.WithReader(sdk.NewManualReader())).Meter("test")); err != nil {
		t.Fatal(err)
	}
	typ, b := c.types[0], &Batch{}
	if n := testing.AllocsPerRun(100, func() { c.counts.applied(typ, b, time.Second) }); n > 1 {
		t.Errorf("%v allocations, want at most the one of the histogram's arguments", n)
	}
}
