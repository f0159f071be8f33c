package inbound_test

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/inbound"
	"ztunnel/proxy/live"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/connection/connectiontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Where the pod and its clients are.
const (
	podIP      = "127.0.0.2"
	clientIP   = "127.0.0.5"
	strangerIP = "127.0.0.6" // without a workload record
	clientID   = "spiffe://cluster.local/ns/default/sa/client"
	otherID    = "spiffe://cluster.local/ns/default/sa/other"
)

// pod is a served pod "web" with what surrounds it.
type pod struct {
	*inbound.Server
	ca        *identitytest.CA
	store     *workload.Store
	policies  *rbac.Set
	live      live.Set
	panics    atomic.Int64
	log       *proxytest.Log // of the server
	access    *proxytest.Log
	metrics   *connectiontest.Metrics
	web       *workload.Workload
	listeners []*net.TCPListener // HBONE, plain text
	cut       context.CancelCauseFunc
	served    sync.WaitGroup
}

// newPod serves a pod until the end of the test. edit may change the workload
// and the configuration; the listeners are open already.
func newPod(t testing.TB, edit func(*pod, *inbound.Config)) *pod {
	t.Helper()
	p := &pod{ca: identitytest.NewCA(t), log: proxytest.NewLog(), access: proxytest.NewLog(), web: proxytest.Workload("web", podIP)}
	p.store = workload.NewStore(workload.Config{})
	p.policies = rbac.NewSet(p.log.Logger(), false)
	recorder := connection.NewRecorder(connection.Config{Log: p.access.Logger()})
	p.metrics = connectiontest.New(t, recorder)
	cfg := inbound.Config{
		Workload: proxytest.Info(p.web), Network: "main", Baggage: true, LocalhostAppTunnel: true,
		Store: p.store, Policies: p.policies, Certificates: &proxytest.Certificates{CA: p.ca},
		Sockets: socket.NewFactory(socket.Config{}), HBONE: &hbone.Config{},
		Live: &p.live, Recorder: recorder, Panics: &p.panics, Log: p.log.Logger(),
	}
	for range 2 {
		ln, _, err := cfg.Sockets.Listen(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(podIP), 0), nil)
		if err != nil {
			t.Fatal(err)
		}
		p.listeners = append(p.listeners, ln)
	}
	if edit != nil {
		edit(p, &cfg)
	}
	p.web.Network = "main"
	p.put(p.web)
	p.Server = inbound.New(cfg)
	p.serve(t)
	return p
}

// put adds or replaces workloads.
func (p *pod) put(ws ...*workload.Workload) {
	for _, w := range ws {
		w.Network = "main"
	}
	p.store.Apply(workload.Update{Workloads: ws})
}

func (p *pod) serve(t testing.TB) {
	ctx, cut := context.WithCancelCause(context.Background())
	p.cut = cut
	for i, serve := range []func(context.Context, *net.TCPListener) error{p.ServeHBONE, p.ServePlaintext} {
		p.served.Go(func() {
			if err := serve(ctx, p.listeners[i]); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		p.stopListening()
		cut(live.ErrDraining)
		p.served.Wait()
		if n := p.live.Len(); n != 0 {
			t.Errorf("%d connections are left at the end", n)
		}
		if n := p.metrics.Sum(t, "istio_tcp_sockets_open", nil); n != 0 {
			t.Errorf("%d sockets are counted as open at the end", n)
		}
		if n := p.metrics.Sum(t, "istio_tcp_connections_active", nil); n != 0 {
			t.Errorf("%d connections are counted as active at the end", n)
		}
	})
}

func (p *pod) stopListening() {
	for _, ln := range p.listeners {
		_ = ln.Close()
	}
}

func (p *pod) hboneAddr() net.Addr { return p.listeners[0].Addr() }

// clientTLS is the configuration of a client with an identity, which expects
// the pod.
func (p *pod) clientTLS(t testing.TB, id string) *tls.Config {
	t.Helper()
	return p.ca.Workload(t, id).ClientConfig([]spiffe.ID{p.web.Identity()})
}

// tunnel opens a tunnel to the pod, which is dropped at the end of the test.
func (p *pod) tunnel(t testing.TB, from, id string) *hbone.ClientConn {
	t.Helper()
	c, err := hbone.Client(t.Context(), proxytest.Dial(t, from, p.hboneAddr()), p.clientTLS(t, id), nil)
	if err != nil {
		t.Fatalf("tunnel to the pod: %v", err)
	}
	t.Cleanup(func() {
		c.Abort(nil)
		<-c.Done()
	})
	return c
}

// client opens a tunnel as the usual client.
func (p *pod) client(t testing.TB) *hbone.ClientConn {
	t.Helper()
	return p.tunnel(t, clientIP, clientID)
}

// open opens a stream, which is closed at the end of the test.
func open(t testing.TB, c *hbone.ClientConn, authority string, header ...hbone.Field) *hbone.Stream {
	t.Helper()
	s, err := c.Open(t.Context(), &hbone.Request{Method: "CONNECT", Authority: authority, Header: header})
	if err != nil {
		t.Fatalf("CONNECT %s: %v", authority, err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// finish ends a stream in good order.
func finish(t testing.TB, s *hbone.Stream) {
	t.Helper()
	if err := s.CloseWrite(); err != nil {
		t.Errorf("CloseWrite() = %v", err)
	}
	if err := proxytest.Ended(s); err != nil {
		t.Errorf("the stream ended with %v, want a good end", err)
	}
}

// allowOnly is a policy that lets one identity in, to some ports if any are given.
func allowOnly(id string, ports ...uint16) *rbac.Policy {
	principal := rbac.StringMatch{Kind: rbac.Exact, Value: strings.TrimPrefix(id, "spiffe://")}
	return &rbac.Policy{
		Name: "only", Namespace: "default", Scope: rbac.Namespace, Action: rbac.Allow,
		Rules: []rbac.Rule{{{{Principals: []rbac.StringMatch{principal}, DestinationPorts: ports}}}},
	}
}

// contains fails the test if a line lacks a part.
func contains(t testing.TB, line string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(line, part) {
			t.Errorf("line %q has no %q", line, part)
		}
	}
}

// rejected waits until a refusal is counted.
func (p *pod) rejected(t testing.TB, reason connection.Reason, more connectiontest.Labels) {
	t.Helper()
	labels := connectiontest.Labels{"reporter": "destination", "reason": string(reason)}
	maps.Copy(labels, more)
	proxytest.Until(t, "a refusal is counted with reason "+string(reason), func() bool {
		return p.metrics.Sum(t, "istio_tcp_connections_rejected_total", labels) == 1
	})
}

// short is a time that must pass in a test.
const short = 50 * time.Millisecond
