package outbound_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/outbound"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/connection/connectiontest"
)

// twice is an application that sends back 11 bytes twice.
func twice(t *testing.T, ip string) netip.AddrPort {
	t.Helper()
	return proxytest.Application(t, ip, func(c *net.TCPConn) {
		b := make([]byte, 11)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		_, _ = c.Write(append(b, b...))
		_, _ = io.Copy(io.Discard, c)
	})
}

// sayTwice talks to such an application to the end.
func sayTwice(t *testing.T, app *net.TCPConn) {
	t.Helper()
	if _, err := io.WriteString(app, "hello world"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 22)
	if _, err := io.ReadFull(app, got); err != nil || string(got) != "hello worldhello world" {
		t.Fatalf("read %q, %v, want the greeting twice", got, err)
	}
	finish(t, app)
}

// wantTwice expects, by one reporter, the counts of one such connection.
func wantTwice(t *testing.T, m *connectiontest.Metrics, labels connectiontest.Labels) {
	t.Helper()
	for family, want := range map[string]int64{
		"istio_tcp_connections_opened_total": 1, "istio_tcp_connections_closed_total": 1,
		"istio_tcp_received_bytes_total": 11, "istio_tcp_sent_bytes_total": 22,
	} {
		proxytest.Until(t, family, func() bool { return m.Sum(t, family, labels) != 0 })
		if got := m.Sum(t, family, labels); got != want {
			t.Errorf("%s%v = %d, want %d", family, labels, got, want)
		}
	}
}

// Of 11 bytes that are answered by 22, both ends count 11 received and 22 sent;
// the log tells what the workload at that end has sent and received. What is
// reached through a waypoint is logged as the waypoint, with the address that was
// asked for beside.
func TestEdge_BytesAtBothEnds(t *testing.T) {
	echo := twice(t, waypointIP)
	var far *connectiontest.Metrics
	farLog := proxytest.NewLog()
	p := newPod(t, func(p *pod, _ *outbound.Config) {
		p.recorder = func() *connection.Recorder {
			r := connection.NewRecorder(connection.Config{Log: farLog.Logger()})
			far = connectiontest.New(t, r)
			return r
		}
	})
	p.waypoint(t)
	target := at(echo.Port())
	sayTwice(t, p.connect(t, target))
	waypoint := p.store.WorkloadByUID("web").Waypoint
	next := netip.AddrPortFrom(waypoint.Address.Addr, waypoint.Port).String()
	p.complete(t, "INFO", "src.workload=client", "dst.workload=waypoint", "dst.addr="+next+" ", "dst.hbone_addr="+target.String(),
		"src.identity="+clientID, "dst.identity="+waypointID, "bytes_sent=11", "bytes_recv=22")
	farLog.Wait(t, "INFO connection complete", "direction=inbound", "dst.addr="+next+" ", "dst.hbone_addr="+target.String(),
		"src.identity="+clientID, "dst.identity="+waypointID, "bytes_sent=22", "bytes_recv=11")
	ends := func(reporter string) connectiontest.Labels {
		return connectiontest.Labels{
			"reporter": reporter, "source_principal": clientID, "destination_principal": waypointID, "connection_security_policy": "mutual_tls",
		}
	}
	wantTwice(t, p.metrics, ends("source"))
	wantTwice(t, far, ends("destination"))
}

// The same without a tunnel, where there are no identities.
func TestEdge_BytesInPlainText(t *testing.T) {
	p := newPod(t, nil)
	sayTwice(t, p.connect(t, twice(t, "127.0.0.30")))
	p.complete(t, "INFO", "bytes_sent=11", "bytes_recv=22")
	if p.access.Has("identity") {
		t.Error("an identity is logged of a connection without one")
	}
	wantTwice(t, p.metrics, connectiontest.Labels{"reporter": "source", "connection_security_policy": "unknown"})
}

// An open connection is opened and not closed; it is closed soon after the
// application has gone.
func TestEdge_IdleConnectionIsOpen(t *testing.T) {
	p := newPod(t, nil)
	app := p.connect(t, proxytest.Echo(t, "127.0.0.30"))
	proxytest.Say(t, app, "hello world")
	count := func(family string) int64 { return p.metrics.Sum(t, family, nil) }
	if opened, closed := count("istio_tcp_connections_opened_total"), count("istio_tcp_connections_closed_total"); opened != 1 || closed != 0 {
		t.Errorf("opened %d, closed %d, want 1 and 0", opened, closed)
	}
	gone := time.Now()
	_ = app.Close()
	proxytest.Until(t, "it is closed", func() bool { return count("istio_tcp_connections_closed_total") == 1 })
	if took := time.Since(gone); took > 2*time.Second {
		t.Errorf("it was closed after %v, want at most 2 s", took)
	}
	if opened := count("istio_tcp_connections_opened_total"); opened != 1 {
		t.Errorf("opened %d, want 1", opened)
	}
}

// requests is an HBONE peer with an identity that echoes and keeps what was asked.
func (p *pod) requests(t *testing.T, ip, id string) (addr netip.AddrPort, seen <-chan hbone.Request) {
	t.Helper()
	server := p.serverTLS(t, id)
	requests := make(chan hbone.Request, 4)
	addr = proxytest.Application(t, ip, func(c *net.TCPConn) {
		s, err := hbone.Server(context.Background(), c, server, nil)
		if err != nil {
			return
		}
		_ = s.Serve(context.Background(), func(_ context.Context, stream *hbone.Stream) {
			select {
			case requests <- *stream.Request():
			default: // nobody looks at so many
			}
			if stream.Accept(nil) == nil {
				_, _ = io.Copy(stream, stream)
				_ = stream.CloseWrite()
			}
		})
	})
	return addr, requests
}

// Which network a client is of is told to the far end, and to nobody else.
func TestEdge_NetworkIsForTheFarEnd(t *testing.T) {
	const header = "x-forwarded-network"
	own := func(_ *pod, c *outbound.Config) { c.Network = "main" }
	t.Run("the same network", func(t *testing.T) {
		p := newPod(t, own)
		addr, seen := p.requests(t, waypointIP, waypointID)
		client, next, target := proxytest.Workload("client", clientIP), proxytest.Workload("waypoint", waypointIP), web(addr.Port())
		target.Waypoint.Address.Network = "main"
		for _, w := range []*workload.Workload{client, next, target} {
			w.Network = "main"
		}
		p.put(client, next, target)
		app := p.connect(t, at(80))
		proxytest.Say(t, app, "hello")
		finish(t, app)
		r := <-seen
		if got := r.Header.Values(header); len(got) != 0 {
			t.Errorf("%s = %q, want none", header, got)
		}
		if got, want := r.Header.Get("forwarded"), `for="`+socketAddr(app)+`"`; got != want {
			t.Errorf("forwarded = %q, want %q", got, want)
		}
	})
	t.Run("another network", func(t *testing.T) {
		p := newPod(t, own)
		far, inner := p.requests(t, farIP, farID)
		port, outer := p.gateway(t, net.TCPAddrFromAddrPort(far))
		client := proxytest.Workload("client", clientIP)
		client.Network = "main"
		p.put(client)
		target := p.farService(port, spiffeID("far"))
		svc := *p.store.Service(workload.NamespacedHostname{Namespace: "default", Hostname: "far.default"})
		svc.VIPs = []workload.NetworkAddress{{Network: "main", Addr: target.Addr()}}
		p.store.Apply(workload.Update{Services: []*workload.Service{&svc}})
		app := p.connect(t, target)
		proxytest.Say(t, app, "hello")
		finish(t, app)
		if r := <-outer; len(r.Header.Values(header)) != 0 {
			t.Errorf("%s of the request to the gateway = %q, want none", header, r.Header.Values(header))
		}
		if r := <-inner; r.Header.Get(header) != "main" || len(r.Header.Values(header)) != 1 {
			t.Errorf("%s = %q, want main", header, r.Header.Values(header))
		}
	})
}

// A server that does not take a client because of its trust domain says so only
// when the client has begun to talk: the application sees a reset.
func TestEdge_ForeignTrustDomain(t *testing.T) {
	p := newPod(t, nil)
	p.waypoint(t)
	client := proxytest.Workload("client", clientIP)
	client.TrustDomain = "elsewhere"
	p.put(client)
	ln := proxytest.Listen(t, "127.0.0.1")
	app := proxytest.Dial(t, clientIP, ln.Addr())
	if _, err := io.WriteString(app, "a request"); err != nil {
		t.Fatal(err)
	}
	p.proxy(t, ln, at(80))
	if err := proxytest.Ended(app); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the application sees %v, want a reset", err)
	}
	p.complete(t, "ERROR", "dst.workload=waypoint")
}

// The service that is called and the principal of who answers are among the
// labels; each of several endpoints has a series of its own.
func TestEdge_EndpointsHaveSeries(t *testing.T) {
	p := newPod(t, nil)
	group := workload.NamespacedHostname{Namespace: "default", Hostname: "group.default"}
	for i, name := range []string{"first", "second"} {
		ip := netip.AddrFrom4([4]byte{127, 0, 0, byte(50 + i)}).String()
		addr, _ := p.requests(t, ip, "spiffe://cluster.local/ns/default/sa/"+name)
		w := proxytest.Workload(name, ip)
		w.Services[group] = workload.PortMap{15008: addr.Port()}
		p.put(w)
	}
	service := func(hostname, vip string, port uint16) *workload.Service {
		return &workload.Service{
			Name: hostname[:len(hostname)-len(".default")], Namespace: "default", Hostname: hostname, Ports: workload.PortMap{port: port},
			VIPs: []workload.NetworkAddress{{Addr: netip.MustParseAddr(vip)}},
		}
	}
	called := service("called.default", "10.0.0.1", 80)
	called.Waypoint = &workload.Gateway{Hostname: group, Port: 15008}
	p.store.Apply(workload.Update{Services: []*workload.Service{called, service(group.Hostname, "10.0.0.2", 15008)}})
	count := func(name string) int64 {
		return p.metrics.Sum(t, "istio_tcp_connections_opened_total", connectiontest.Labels{
			"destination_service": "called.default", "destination_service_name": "called", "destination_service_namespace": "default",
			"destination_principal": "spiffe://cluster.local/ns/default/sa/" + name, "reporter": "source",
		})
	}
	calls := int64(0)
	for count("first") == 0 || count("second") == 0 {
		if calls++; calls > 200 {
			t.Fatal("200 connections went to one of two endpoints")
		}
		proxytest.Say(t, p.connect(t, netip.MustParseAddrPort("10.0.0.1:80")), "hello")
	}
	if n := count("first") + count("second"); n != calls {
		t.Errorf("%d connections are counted, want %d", n, calls)
	}
}
