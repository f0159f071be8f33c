package proxy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sys/unix"

	"ztunnel/proxy"
	"ztunnel/proxy/config"
	"ztunnel/proxy/dns"
	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/inpod"
	"ztunnel/proxy/local"
	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry"
	"ztunnel/telemetry/catalog"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/logging"
	"ztunnel/telemetry/surface"
)

// all is everything that reports metrics, each with something to report.
type all struct {
	t         *testing.T
	telemetry *telemetry.Telemetry
}

func (a *all) register(scope string, register func(metric.Meter) error) {
	a.t.Helper()
	if err := register(a.telemetry.Meter(scope)); err != nil {
		a.t.Fatalf("register %s: %v", scope, err)
	}
}

// run runs something until the test ends.
func (a *all) run(serve func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := serve(ctx); err != nil {
			a.t.Errorf("end with %v", err)
		}
	})
	a.t.Cleanup(func() { cancel(); running.Wait() })
}

func newAll(t *testing.T) *all {
	t.Helper()
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	t.Cleanup(collector.Close)
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{OTLP: telemetry.OTLP{
		Enabled: true, Protocol: "http/protobuf", Endpoint: collector.URL + "/v1/metrics", Interval: time.Hour,
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown() = %v", err)
		}
	})
	a := &all{t: t, telemetry: tel}
	a.recorder()
	a.logAndSurface()
	a.identity()
	node := &proxy.Node{Config: &config.Config{FakeCA: true}}
	a.register("proxy", node.Register)
	a.register("hbone", new(hbone.Metrics).Register)
	a.register("local", new(local.Metrics).Register)
	a.dns()
	a.inpod()
	a.xds()
	return a
}

// dns asks for a host, without a resolver to forward that to.
func (a *all) dns() {
	server, err := dns.Listen(a.t.Context(), dns.Config{Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		a.t.Fatal(err)
	}
	a.run(server.Serve)
	a.register("dns", server.Register)
	if _, err := server.Lookup(a.t.Context(), "www.example.com", false); err == nil {
		a.t.Error("Lookup without a resolver succeeded")
	}
	resolver := dns.NewResolver(dns.ResolverConfig{})
	a.register("resolver", resolver.Register)
	resolver.Count(nil, "www.example.com")
}

// recorder makes connections between known workloads, good and bad.
func (a *all) recorder() {
	r := connection.NewRecorder(connection.Config{})
	a.register("connection", r.Register)
	w := &workload.Workload{Name: "web-1", WorkloadName: "web", Namespace: "shop", TrustDomain: "td", ServiceAccount: "web"}
	r.SocketOpened(connection.Source)
	for _, err := range []error{nil, errors.New("reset")} {
		r.Open(&connection.Details{Source: w.Telemetry(), Destination: w.Telemetry()}).Close(err)
	}
	r.Reject(&connection.Rejection{Reason: connection.ReasonNoRoute})
}

// logAndSurface writes a line and reads the metrics once.
func (a *all) logAndSurface() {
	log, err := logging.New(logging.Config{Output: io.Discard})
	if err != nil {
		a.t.Fatal(err)
	}
	a.run(log.Run)
	a.register("logging", log.Register)
	log.Logger(logging.ScopeAccess).Info("connection complete")
	s, err := surface.New(surface.Config{Metrics: a.telemetry.Handler(), Log: log.Logger(logging.ScopeTelemetry)})
	if err != nil {
		a.t.Fatal(err)
	}
	a.register("surface", s.Register)
	s.Loopback().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", nil))
}

// inpod has a connection to a node agent, and a message of it.
func (a *all) inpod() {
	path := filepath.Join(a.t.TempDir(), "zds")
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { ln.Close() })
	m := inpod.New(inpod.Config{Path: path, Pods: noPods{}})
	a.register("inpod", m.Register)
	a.run(func(ctx context.Context) error { return m.Run(ctx, nil) })
	conn, err := ln.AcceptUnix()
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	add := []byte{0x0a, 0x06, 0x0a, 0x02, 'i', 'd', 0x12, 0x00}
	if _, _, err := conn.WriteMsgUnix(add, unix.UnixRights(0), nil); err != nil {
		a.t.Fatal(err)
	}
	for range 2 { // the hello and the answer
		if _, err := conn.Read(make([]byte, 1024)); err != nil {
			a.t.Fatal(err)
		}
	}
}

// noPods has no place for pods.
type noPods struct{}

func (noPods) Start(context.Context, string, inpod.Info, *os.File) (inpod.Running, error) {
	return nil, errors.New("no place")
}

// identity asks for a certificate.
func (a *all) identity() {
	ca, err := identity.NewFakeCA(identity.FakeCAConfig{})
	if err != nil {
		a.t.Fatal(err)
	}
	m := identity.NewManager(ca, identity.Config{Log: slog.New(slog.DiscardHandler)})
	a.register("identity", m.Register)
	a.run(m.Run)
	if _, err := m.Certificate(a.t.Context(), spiffe.ID{TrustDomain: "td", Namespace: "shop", ServiceAccount: "web"}, identity.RealTime); err != nil {
		a.t.Fatal(err)
	}
	a.crl()
}

// crl watches a tunnel.
func (a *all) crl() {
	ca := identitytest.NewCA(a.t)
	file := filepath.Join(a.t.TempDir(), "ca-crl.pem")
	if err := os.WriteFile(file, ca.CRL(a.t), 0o600); err != nil {
		a.t.Fatal(err)
	}
	crl := identity.NewCRL(identity.CRLConfig{Path: file, Log: slog.New(slog.DiscardHandler)})
	a.register("crl", crl.Register)
	peer := ca.Workload(a.t, "spiffe://td/ns/shop/sa/web")
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{peer.Leaf()}}
	a.t.Cleanup(crl.Track(identity.Tunnel{State: state, Own: peer}, func() {}))
}

// scrape returns the families by name.
func (a *all) scrape() map[string]*dto.MetricFamily {
	a.t.Helper()
	w := httptest.NewRecorder()
	a.telemetry.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return families
}

// labels are the names of the labels of all series of a family, sorted.
func labels(f *dto.MetricFamily) []string {
	var names []string
	for _, series := range f.GetMetric() {
		for _, l := range series.GetLabel() {
			names = append(names, l.GetName())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Everything that is reported is in the catalog, with the same type, labels and
// help; everything in the catalog is reported.
func TestCatalog(t *testing.T) {
	families := newAll(t).scrape()
	for name := range families {
		if _, ok := catalog.Find(name); !ok {
			t.Errorf("%s is not in the catalog", name)
		}
	}
	for _, m := range catalog.All() {
		f := families[m.Name]
		if f == nil {
			t.Errorf("%s is in the catalog, but nothing reports it", m.Name)
			continue
		}
		if got := catalog.Type(strings.ToLower(f.GetType().String())); got != m.Type {
			t.Errorf("%s is a %s, in the catalog a %s", m.Name, got, m.Type)
		}
		if got, want := labels(f), slices.Sorted(slices.Values(m.Labels)); !slices.Equal(got, want) {
			t.Errorf("%s has the labels %v, in the catalog %v", m.Name, got, want)
		}
		ours := !strings.HasPrefix(m.Name, "go_") && !strings.HasPrefix(m.Name, "process_")
		if got := f.GetHelp(); ours && got != m.HelpLine() {
			t.Errorf("HELP of %s is %q, in the catalog %q", m.Name, got, m.HelpLine())
		}
	}
	if got := families[catalog.FakeCA].GetMetric()[0].GetGauge().GetValue(); got != 1 {
		t.Errorf("%s = %v with a made-up CA, want 1", catalog.FakeCA, got)
	}
}
