package outbound_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"ztunnel/proxy/live"
	"ztunnel/proxy/outbound"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/connection/connectiontest"
)

// finish ends the application's end in good order.
func finish(t *testing.T, app *net.TCPConn) {
	t.Helper()
	if err := app.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := proxytest.Ended(app); err != nil {
		t.Errorf("the application's connection ended with %v, want a good end", err)
	}
}

func TestTCP_Passthrough(t *testing.T) {
	target := proxytest.Echo(t, "127.0.0.30")
	p := newPod(t, nil)
	app := p.connect(t, target)
	proxytest.Say(t, app, "hello world")
	finish(t, app)
	p.complete(t, "INFO", "src.addr="+socketAddr(app), "src.workload=client", "dst.addr="+target.String(), "bytes_sent=11", "bytes_recv=11")
	if p.access.Has("identity") {
		t.Error("an identity is logged of a connection without one")
	}
	p.counted(t, connectiontest.Labels{"destination_workload": "unknown", "connection_security_policy": "unknown"})
}

func socketAddr(c net.Conn) string { return c.LocalAddr().String() }

func (p *pod) counted(t *testing.T, labels connectiontest.Labels) {
	t.Helper()
	labels["reporter"], labels["response_flags"], labels["source_workload"] = "source", "-", "client-controller"
	for family, want := range map[string]int64{
		"istio_tcp_connections_opened_total": 1, "istio_tcp_connections_closed_total": 1,
		"istio_tcp_received_bytes_total": 11, "istio_tcp_sent_bytes_total": 11, "istio_tcp_connections_failed_total": 0,
	} {
		if got := p.metrics.Sum(t, family, labels); got != want {
			t.Errorf("%s%v = %d, want %d", family, labels, got, want)
		}
	}
}

func TestTCP_KnownWorkload(t *testing.T) {
	target := proxytest.Echo(t, "127.0.0.30")
	p := newPod(t, nil)
	w := proxytest.Workload("plain", "127.0.0.30")
	w.Protocol = workload.TCP
	p.put(w)
	app := p.connect(t, target)
	proxytest.Say(t, app, "hello world")
	finish(t, app)
	p.complete(t, "INFO", "dst.workload=plain")
	p.counted(t, connectiontest.Labels{"destination_workload": "plain-controller", "connection_security_policy": "unknown"})
}

func TestHBONE_ThroughARealServer(t *testing.T) {
	echo := proxytest.Echo(t, waypointIP)
	p := newPod(t, nil)
	_, far := p.waypoint(t)
	app := p.connect(t, at(echo.Port()))
	proxytest.Say(t, app, "hello world")
	finish(t, app)
	p.complete(t, "INFO", "src.identity="+clientID, "dst.hbone_addr="+at(echo.Port()).String(), "dst.workload=waypoint",
		"dst.identity=spiffe://cluster.local/ns/default/sa/waypoint", "bytes_sent=11", "bytes_recv=11")
	p.counted(t, connectiontest.Labels{"destination_workload": "waypoint-controller", "connection_security_policy": "mutual_tls", "source_principal": clientID})
	far.Wait(t, "INFO connection complete", "direction=inbound", "src.identity="+clientID, "bytes_sent=11", "bytes_recv=11")
}

func TestHBONE_TunnelsAreShared(t *testing.T) {
	echo := proxytest.Echo(t, waypointIP)
	p := newPod(t, nil)
	p.waypoint(t)
	for range 3 {
		proxytest.Say(t, p.connect(t, at(echo.Port())), "hello")
	}
	if s := p.pool.Stats(); s.Active+s.Idle != 1 {
		t.Errorf("three connections have %+v, want 1 tunnel", s)
	}
	proxytest.Say(t, p.connectFrom(t, "127.0.0.6", at(echo.Port())), "hello")
	if s := p.pool.Stats(); s.Active+s.Idle != 2 {
		t.Errorf("two clients have %+v, want 2 tunnels", s)
	}
}

func TestRefusals(t *testing.T) {
	service := func(edit func(*workload.Service)) workload.Update {
		s := &workload.Service{
			Name: "svc", Namespace: "default", Hostname: "svc.default", Ports: workload.PortMap{80: 80},
			VIPs: []workload.NetworkAddress{{Addr: netip.MustParseAddr("10.0.0.1")}},
		}
		if edit != nil {
			edit(s)
		}
		return workload.Update{Services: []*workload.Service{s}}
	}
	for name, tc := range map[string]struct {
		target string
		state  workload.Update
		reason connection.Reason
		text   string
	}{
		"ourselves":         {"127.0.0.1:15001", workload.Update{}, connection.ReasonSelfCall, "attempted recursive call to ourselves"},
		"nobody serves it":  {"10.0.0.1:80", service(nil), connection.ReasonNoHealthyUpstream, "no healthy upstream: 10.0.0.1:80"},
		"source is unknown": {"10.0.0.2:80", workload.Update{RemovedWorkloads: []string{"client"}}, connection.ReasonUnknownWorkload, "failed to fetch information about local workload: client.default (client)"},
		"unknown waypoint": {"10.0.0.1:80", service(func(s *workload.Service) {
			s.Waypoint = &workload.Gateway{Hostname: workload.NamespacedHostname{Namespace: "default", Hostname: "nowhere"}, Port: 15008}
		}), connection.ReasonUnknownWaypoint, "unknown waypoint: waypoint nowhere not found"},
		"waypoint without endpoints": {webIP + ":80", workload.Update{Workloads: []*workload.Workload{func() *workload.Workload {
			w := proxytest.Workload("web", webIP)
			w.Waypoint = &workload.Gateway{Hostname: workload.NamespacedHostname{Namespace: "default", Hostname: "svc.default"}, Port: 15008}
			return w
		}()}, Services: service(nil).Services}, connection.ReasonUnknownWaypoint, "unknown waypoint: waypoint GatewayAddress { destination: Hostname("},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, func(_ *pod, c *outbound.Config) { c.IllegalPorts, c.WorkloadWait = []uint16{15001}, 1 })
			p.store.Apply(tc.state)
			if err := proxytest.Ended(p.connect(t, netip.MustParseAddrPort(tc.target))); err != nil {
				t.Errorf("the application sees %v, want an end of file", err)
			}
			p.access.Wait(t, "WARN connection failed", "dst.addr="+tc.target, "direction=outbound", "error="+tc.text)
			p.rejected(t, tc.reason)
			if n := p.metrics.Sum(t, "istio_tcp_connections_opened_total", nil); n != 0 {
				t.Errorf("opened = %d, want none", n)
			}
		})
	}
}

func (p *pod) rejected(t *testing.T, reason connection.Reason) {
	t.Helper()
	proxytest.Until(t, "a refusal is counted with reason "+string(reason), func() bool {
		return p.metrics.Sum(t, "istio_tcp_connections_rejected_total", connectiontest.Labels{"reporter": "source", "reason": string(reason)}) == 1
	})
}

// An application that has sent something learns by a reset that nobody read it.
func TestFailure_ClientsBytesAreNotRead(t *testing.T) {
	p := newPod(t, nil)
	for _, sends := range []bool{true, false} {
		ln := proxytest.Listen(t, "127.0.0.1")
		app := proxytest.Dial(t, clientIP, ln.Addr())
		if sends {
			if _, err := io.WriteString(app, "a request"); err != nil {
				t.Fatal(err)
			}
		}
		p.proxy(t, ln, closedPort(t, "127.0.0.30"))
		if err := proxytest.Ended(app); errors.Is(err, syscall.ECONNRESET) != sends {
			t.Errorf("with bytes sent %t the application sees %v, want a reset: %t", sends, err, sends)
		}
	}
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T, ip string) netip.AddrPort {
	t.Helper()
	ln := proxytest.Listen(t, ip)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func TestCut_SaysWhy(t *testing.T) {
	echo, plain := proxytest.Echo(t, waypointIP), proxytest.Echo(t, "127.0.0.30")
	for name, target := range map[string]netip.AddrPort{"HBONE": at(echo.Port()), "TCP": plain} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, nil)
			p.waypoint(t)
			app := p.connect(t, target)
			proxytest.Say(t, app, "hello")
			p.cut(live.ErrDraining)
			p.served.Wait()
			_ = proxytest.Ended(app)
			p.failed(t, connection.FlagNone, "connection closed due to connection drain")
		})
	}
}

func TestDenied(t *testing.T) {
	p := newPod(t, nil)
	policies, _ := p.waypoint(t)
	policies.Replace([]*rbac.Policy{denyAll()})
	_ = proxytest.Ended(p.connect(t, at(80)))
	p.failed(t, connection.FlagConnect, "http status: 401 Unauthorized")
}

func (p *pod) serve(t *testing.T, ln *net.TCPListener) {
	t.Helper()
	p.served.Go(func() {
		if err := p.Serve(p.ctx, ln); err != nil {
			t.Errorf("Serve() = %v, want nil", err)
		}
	})
	t.Cleanup(func() { _ = ln.Close() })
}

// Without redirection, the destination of a connection is the listener itself.
func TestServe_SelfCall(t *testing.T) {
	ln := proxytest.Listen(t, "127.0.0.1")
	p := newPod(t, func(_ *pod, c *outbound.Config) { c.IllegalPorts = []uint16{proxytest.Port(ln)} })
	p.serve(t, ln)
	if err := proxytest.Ended(proxytest.Dial(t, "127.0.0.1", ln.Addr())); err != nil {
		t.Errorf("the application sees %v, want an end of file", err)
	}
	p.access.Wait(t, "WARN connection failed", "error=attempted recursive call to ourselves")
	p.rejected(t, connection.ReasonSelfCall)
	proxytest.Until(t, "its socket is given back", func() bool { return p.metrics.Sum(t, "istio_tcp_sockets_open", nil) == 0 })
}

func TestServe_Limit(t *testing.T) {
	ln := proxytest.Listen(t, "127.0.0.1")
	p := newPod(t, func(_ *pod, c *outbound.Config) { c.MaxConnections = 1 })
	p.store.Apply(workload.Update{RemovedWorkloads: []string{"client"}}) // connections wait for it
	p.serve(t, ln)
	proxytest.Dial(t, "127.0.0.1", ln.Addr())
	proxytest.Until(t, "it is taken", func() bool { return p.metrics.Sum(t, "istio_tcp_sockets_open", nil) == 1 })
	_ = proxytest.Ended(proxytest.Dial(t, "127.0.0.1", ln.Addr()))
	p.access.Wait(t, "WARN connection failed", "error=too many connections: the limit of this pod is 1")
	p.rejected(t, connection.ReasonLimit)
	_ = ln.Close()
}

func TestPanic(t *testing.T) {
	ln := proxytest.Listen(t, "127.0.0.1")
	p := newPod(t, func(_ *pod, c *outbound.Config) { c.Store = nil })
	p.served.Go(func() { _ = p.Serve(p.ctx, ln) })
	t.Cleanup(func() { _ = ln.Close() })
	_ = proxytest.Ended(proxytest.Dial(t, "127.0.0.1", ln.Addr()))
	if line := p.log.Wait(t, "ERROR panic while serving a connection"); !strings.Contains(line, "stack=") {
		t.Errorf("line %q has no stack", line)
	}
	if n := p.panics.Load(); n != 1 {
		t.Errorf("panics = %d, want 1", n)
	}
}
