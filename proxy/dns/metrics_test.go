package dns

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"ztunnel/telemetry/connection"
)

// collect reads all series that are not 0, as "name label=value ... value"; of
// histograms the count.
func collect(t *testing.T, reader *sdk.ManualReader) []string {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	var list []string
	add := func(name string, labels attribute.Set, value any) {
		line := name
		for _, kv := range labels.ToSlice() {
			label := string(kv.Key)
			label = strings.NewReplacer("request_query_", "", "request_", "", "source_canonical_", "").Replace(label)
			line += " " + label + "=" + kv.Value.String()
		}
		if fmt.Sprint(value) != "0" {
			list = append(list, fmt.Sprint(line, " ", value))
		}
	}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, p.Count)
					if diff := cmp.Diff([]float64{.0005, .001, .01, .1, 1, 5}, p.Bounds); diff != "" {
						t.Errorf("buckets (-want +got):\n%s", diff)
					}
				}
			}
		}
	}
	slices.Sort(list)
	return list
}

func TestServer_Metrics(t *testing.T) {
	reader := sdk.NewManualReader()
	s := meshServer(t, records(t, "a.test. 60 IN A 192.0.2.1"))
	if err := s.Register(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")); err != nil {
		t.Fatal(err)
	}
	ask := func(over transport, host string, qtype uint16) {
		query(t, s, over, new(dns.Msg).SetQuestion(host, qtype))
	}
	ask(overUDP, "productpage.", dns.TypeA)
	ask(overUDP, "productpage.", dns.TypeAAAA)
	ask(overTCP, "productpage.", dns.TypeA)
	ask(overUDP, "a.test.", dns.TypeA)
	ask(overUDP, "a.test.", dns.TypeA) // kept
	ask(overUDP, "missing.test.", dns.TypeA)
	ask(overUDP, "a.test.", dns.TypeAAAA) // no records
	ask(overUDP, "a.test.", dns.TypeSRV)
	ask(overUDP, "a.test.", 4711)
	ask(overUDP, "a.test.", 4712)
	if _, err := s.Lookup(t.Context(), "productpage", false); err != nil {
		t.Fatal(err)
	}
	const requests, upstream, failures, duration = "istio_dns_requests_total ", "istio_dns_upstream_requests_total ", "istio_dns_upstream_failures_total ", "istio_dns_upstream_request_duration_seconds "
	label := func(qtype, over string) string {
		return "protocol=" + over + " type=" + qtype + " revision=v1 service=client-app "
	}
	want := []string{
		requests + label("a", "udp") + "5", requests + label("aaaa", "udp") + "2", requests + label("a", "tcp") + "1", requests + label("srv", "udp") + "1", requests + label("unknown", "udp") + "2",
		upstream + label("a", "udp") + "3", upstream + label("aaaa", "udp") + "1", upstream + label("srv", "udp") + "1", upstream + label("unknown", "udp") + "2",
		duration + label("a", "udp") + "3", duration + label("aaaa", "udp") + "1", duration + label("srv", "udp") + "1", duration + label("unknown", "udp") + "2",
		failures + label("a", "udp") + "1", failures + label("aaaa", "udp") + "1", failures + label("srv", "udp") + "1", failures + label("unknown", "udp") + "2",
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, collect(t, reader)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Labels that come from pods cannot take all memory.
func TestMetrics_Limit(t *testing.T) {
	var m Metrics
	for i := range 2 * maxSeries {
		m.series(seriesKey{qtype: dns.TypeA, service: fmt.Sprint(i), revision: "v1"}).requests.Add(1)
	}
	s := m.series(seriesKey{qtype: dns.TypeA, service: "one more", revision: "v1"})
	if s.key.service != overflow || s.requests.Load() != maxSeries || len(m.all) != maxSeries+1 {
		t.Errorf("%d series, the last one %+v with %d queries", len(m.all), s.key, s.requests.Load())
	}
}

func TestResolver_Metrics(t *testing.T) {
	reader := sdk.NewManualReader()
	r := NewResolver(ResolverConfig{})
	if err := r.Register(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")); err != nil {
		t.Fatal(err)
	}
	w := &connection.Workload{Name: "web", Namespace: "shop", CanonicalName: "web-app", CanonicalRevision: "v2", Known: true, Principal: "spiffe://td/ns/shop/sa/web"}
	r.Count(w, "far.example.com")
	r.Count(w, "far.example.com")
	r.Count(nil, "far.example.com")
	want := []string{
		"istio_on_demand_dns_total hostname=far.example.com source_app=unknown revision=unknown service=unknown source_cluster=unknown source_principal=unknown source_version=unknown source_workload=unknown source_workload_namespace=unknown 1",
		"istio_on_demand_dns_total hostname=far.example.com source_app=web-app revision=v2 service=web-app source_cluster=Kubernetes source_principal=spiffe://td/ns/shop/sa/web source_version=v2 source_workload=web source_workload_namespace=shop 2",
	}
	if diff := cmp.Diff(want, collect(t, reader)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for i := range 2 * maxSeries {
		r.Count(w, fmt.Sprint(i))
	}
	if n := len(r.counts.all); n != maxSeries+1 {
		t.Errorf("%d series, want at most %d and one for the rest", n, maxSeries)
	}
}

// Each query is a line at debug, without a message.
func TestServer_Log(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}}))
	s := listen(t, Config{Upstreams: Upstreams{Servers: []netip.AddrPort{records(t, "a.test. 60 IN A 192.0.2.1")}}, Queries: log})
	for _, tc := range []struct {
		host  string
		qtype uint16
		want  string
	}{
		{"Details.ns2.svc.cluster.remote.", dns.TypeA, "query=A domain=details.ns2.svc.cluster.remote. result=success endpoints=4"},
		{"productpage.", dns.TypeAAAA, `query=AAAA domain=productpage. result="no records" endpoints=0`},
		{"only4.", dns.TypeAAAA, `query=AAAA domain=only4. result="service does not support this record type" endpoints=0`},
		{"a.test.", dns.TypeA, "query=A domain=a.test. result=forwarded endpoints=1"},
		{"a.test.", dns.TypeMX, `query=MX domain=a.test. result="forwarding failed (no records)" endpoints=0`},
		{"missing.test.", dns.TypeA, `query=A domain=missing.test. result="forwarding failed (NXDOMAIN)" endpoints=0`},
	} {
		out.Reset()
		query(t, s, overUDP, new(dns.Msg).SetQuestion(tc.host, tc.qtype))
		if got, want := out.String(), `msg="" src.workload=client src.namespace=ns1 `+tc.want+"\n"; got != want {
			t.Errorf("logged %s, want %s", got, want)
		}
	}
}
