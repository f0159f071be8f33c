package outbound_test

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/inbound"
	"ztunnel/proxy/live"
	"ztunnel/proxy/outbound"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/connection/connectiontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Where everything is. The destination is reached by its waypoint, whose port
// the tests choose, because HBONE to a workload itself has a fixed one.
const (
	clientIP   = "127.0.0.5"
	waypointIP = "127.0.0.2"
	webIP      = "127.0.0.9"
	clientID   = "spiffe://cluster.local/ns/default/sa/client"
)

// pod is the outbound side of a pod "client" with what surrounds it.
type pod struct {
	*outbound.Server
	ca      *identitytest.CA
	certs   *proxytest.Certificates
	store   *workload.Store
	live    live.Set
	panics  atomic.Int64
	pool    *hbone.Pool
	log     *proxytest.Log // of the server
	access  *proxytest.Log
	metrics *connectiontest.Metrics
	ctx     context.Context
	cut     context.CancelCauseFunc
	served  sync.WaitGroup
	// recorder replaces those of the destinations if it is set.
	recorder func() *connection.Recorder
}

func newPod(t testing.TB, edit func(*pod, *outbound.Config)) *pod {
	t.Helper()
	p := &pod{ca: identitytest.NewCA(t), log: proxytest.NewLog(), access: proxytest.NewLog()}
	p.certs = &proxytest.Certificates{CA: p.ca}
	p.store = workload.NewStore(workload.Config{})
	client := proxytest.Workload("client", clientIP)
	p.put(client)
	recorder := connection.NewRecorder(connection.Config{Log: p.access.Logger()})
	p.metrics = connectiontest.New(t, recorder)
	sockets := socket.NewFactory(socket.Config{})
	dialer := &outbound.Dialer{Certificates: p.certs, Sockets: sockets, HBONE: &hbone.Config{HandshakeTimeout: 5 * time.Second, Log: p.log.Logger()}}
	p.pool = hbone.NewPool(hbone.PoolConfig{Dial: dialer.Dial})
	cfg := outbound.Config{
		Workload: proxytest.Info(client), Store: p.store, Sockets: sockets, Pool: p.pool, Inner: dialer,
		Resolver: net.DefaultResolver, Live: &p.live, Recorder: recorder, Panics: &p.panics, Log: p.log.Logger(),
	}
	if edit != nil {
		edit(p, &cfg)
	}
	p.Server = outbound.New(cfg)
	p.ctx, p.cut = context.WithCancelCause(context.Background())
	t.Cleanup(func() {
		p.cut(live.ErrDraining)
		p.live.EndAll(live.ErrDraining)
		p.pool.Close()
		p.served.Wait()
		if n := p.live.Len(); n != 0 {
			t.Errorf("%d connections are left at the end", n)
		}
		if n := p.metrics.Sum(t, "istio_tcp_connections_active", nil); n != 0 {
			t.Errorf("%d connections are counted as active at the end", n)
		}
	})
	return p
}

func (p *pod) put(ws ...*workload.Workload) { p.store.Apply(workload.Update{Workloads: ws}) }

// connect makes a connection of the pod's application to target, and returns
// the application's end.
func (p *pod) connect(t testing.TB, target netip.AddrPort) *net.TCPConn {
	t.Helper()
	return p.connectFrom(t, clientIP, target)
}

func (p *pod) connectFrom(t testing.TB, ip string, target netip.AddrPort) *net.TCPConn {
	t.Helper()
	ln := proxytest.Listen(t, "127.0.0.1")
	app := proxytest.Dial(t, ip, ln.Addr())
	p.proxy(t, ln, target)
	return app
}

// proxy takes the next connection of ln as one to target.
func (p *pod) proxy(t testing.TB, ln *net.TCPListener, target netip.AddrPort) {
	t.Helper()
	conn, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	p.served.Go(func() { p.Proxy(p.ctx, conn, socket.Peer(conn), target, time.Now()) })
}

// complete waits for the end of a connection in the log.
func (p *pod) complete(t testing.TB, level string, parts ...string) {
	t.Helper()
	p.access.Wait(t, append([]string{level + " connection complete", "direction=outbound"}, parts...)...)
}

// failed waits for a connection that ends with an error and a flag.
func (p *pod) failed(t testing.TB, flag connection.Flag, text string) {
	t.Helper()
	p.complete(t, "ERROR", "error="+text)
	for family, want := range map[string]int64{
		"istio_tcp_connections_opened_total": 0, "istio_tcp_connections_closed_total": 1, "istio_tcp_connections_failed_total": 1,
	} {
		if flag == connection.FlagNone {
			want = map[string]int64{"istio_tcp_connections_opened_total": 1, "istio_tcp_connections_closed_total": 1}[family]
		}
		labels := connectiontest.Labels{"reporter": "source", "response_flags": string(flag)}
		proxytest.Until(t, family+" has the flag "+string(flag), func() bool { return p.metrics.Sum(t, family, labels) == want })
	}
}

// web is a destination behind a waypoint at a port.
func web(port uint16) *workload.Workload {
	w := proxytest.Workload("web", webIP)
	w.Waypoint = &workload.Gateway{Address: workload.NetworkAddress{Addr: netip.MustParseAddr(waypointIP)}, Port: port}
	return w
}

// waypoint serves the waypoint of web, which hands everything on to the same
// port of its own address, and returns its policies and its access log.
func (p *pod) waypoint(t testing.TB) (*rbac.Set, *proxytest.Log) {
	t.Helper()
	ln := proxytest.Listen(t, waypointIP)
	w := proxytest.Workload("waypoint", waypointIP)
	w.ApplicationTunnel = &workload.ApplicationTunnel{}
	p.put(w, web(proxytest.Port(ln)))
	return p.destination(t, ln, w, p.store, "")
}

// destination serves the inbound side of a workload.
func (p *pod) destination(t testing.TB, ln *net.TCPListener, w *workload.Workload, store *workload.Store, network string) (*rbac.Set, *proxytest.Log) {
	t.Helper()
	access, set, panics := proxytest.NewLog(), new(live.Set), new(atomic.Int64)
	policies := rbac.NewSet(p.log.Logger(), false)
	recorder := connection.NewRecorder(connection.Config{Log: access.Logger()})
	if p.recorder != nil {
		recorder = p.recorder()
	}
	s := inbound.New(inbound.Config{
		Workload: proxytest.Info(w), Network: network, Baggage: true, Store: store, Policies: policies, Certificates: p.certs,
		Sockets: socket.NewFactory(socket.Config{}), HBONE: &hbone.Config{}, Live: set,
		Recorder: recorder, Panics: panics, Log: p.log.Logger(),
	})
	ctx, cut := context.WithCancelCause(context.Background())
	var served sync.WaitGroup
	served.Go(func() { _ = s.ServeHBONE(ctx, ln) })
	t.Cleanup(func() {
		_ = ln.Close()
		cut(live.ErrDraining)
		served.Wait()
	})
	return policies, access
}

// at is a port of the destination.
func at(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(webIP), port)
}

func denyAll() *rbac.Policy {
	return &rbac.Policy{Name: "all", Namespace: "default", Scope: rbac.Namespace, Action: rbac.Deny, Rules: []rbac.Rule{{}}}
}
