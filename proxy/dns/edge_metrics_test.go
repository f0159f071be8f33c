package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"ztunnel/telemetry/connection"
)

// edgeSums reads the counters of a family as "name{label=value,...} value".
func edgeSums(t *testing.T, reader *sdk.ManualReader, family string) (list []string) {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, ok := m.Data.(metricdata.Sum[int64])
			if !ok || m.Name != family {
				continue
			}
			for _, p := range sum.DataPoints {
				var labels []string
				for _, kv := range p.Attributes.ToSlice() {
					labels = append(labels, string(kv.Key)+"="+kv.Value.String())
				}
				list = append(list, fmt.Sprintf("%s{%s} %d", m.Name, strings.Join(labels, ","), p.Value))
			}
		}
	}
	slices.Sort(list)
	return list
}

// One query by UDP is one request of its type.
func TestMetrics_OneQuery(t *testing.T) {
	s, err := Listen(t.Context(), Config{
		Addrs: []netip.AddrPort{loopback}, Log: slog.New(slog.DiscardHandler),
		Upstreams: Upstreams{Servers: []netip.AddrPort{resolver(t, "there.test.", "192.0.2.7")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	reader := sdk.NewManualReader()
	if err := s.Register(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	ask(t, "udp", s.udp[0].LocalAddr().String(), "there.test.")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
	want := []string{"istio_dns_requests_total{request_protocol=udp,request_query_type=a,source_canonical_revision=unknown,source_canonical_service=unknown} 1"}
	if got := edgeSums(t, reader, "istio_dns_requests_total"); !slices.Equal(got, want) {
		t.Errorf("counted %q, want %q", got, want)
	}
}

// Two lookups of one host are two of one series, though the second is answered
// from what is kept.
func TestResolver_CountsWhatIsKept(t *testing.T) {
	var asked atomic.Int64
	server := upstream(t, func(_ string, q *dns.Msg) *dns.Msg {
		asked.Add(1)
		m := new(dns.Msg).SetReply(q)
		m.Answer = append(m.Answer, rr(t, q.Question[0].Name+" 600 IN A 192.0.2.4"))
		return m
	})
	r := NewResolver(ResolverConfig{Upstreams: Upstreams{Servers: []netip.AddrPort{server}}})
	reader := sdk.NewManualReader()
	if err := r.Register(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")); err != nil {
		t.Fatal(err)
	}
	client := &connection.Workload{
		Name: "client", Namespace: "shop", CanonicalName: "client-app", CanonicalRevision: "v1", Cluster: "c", Principal: "spiffe://td/ns/shop/sa/client",
	}
	for range 2 {
		r.Count(client, "out.example.com")
		if addrs, err := r.LookupNetIP(t.Context(), "ip4", "out.example.com"); err != nil || len(addrs) != 1 {
			t.Fatalf("LookupNetIP() = %v, %v, want one address", addrs, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the resolver asked %d times, want once", n)
	}
	want := []string{"istio_on_demand_dns_total{hostname=out.example.com,source_app=client-app,source_canonical_revision=v1,source_canonical_service=client-app," +
		"source_cluster=c,source_principal=spiffe://td/ns/shop/sa/client,source_version=v1,source_workload=client,source_workload_namespace=shop} 2"}
	if got := edgeSums(t, reader, "istio_on_demand_dns_total"); !slices.Equal(got, want) {
		t.Errorf("counted %q, want %q", got, want)
	}
}
