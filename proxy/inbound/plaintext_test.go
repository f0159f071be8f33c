package inbound_test

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"ztunnel/proxy/inbound"
	"ztunnel/proxy/live"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/rbac"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/connection/connectiontest"
)

func (p *pod) plain(t testing.TB, from string) *net.TCPConn {
	t.Helper()
	return proxytest.Dial(t, from, p.listeners[1].Addr())
}

func TestPlaintext_OwnPort(t *testing.T) {
	p := newPod(t, func(p *pod, c *inbound.Config) { c.IllegalPorts = []uint16{proxytest.Port(p.listeners[1])} })
	_ = proxytest.Ended(p.plain(t, clientIP))
	p.access.Wait(t, "WARN connection failed", "direction=inbound", "error=attempted recursive call to ourselves")
	p.rejected(t, connection.ReasonSelfCall, nil)
}

func TestPlaintext_UnknownWorkload(t *testing.T) {
	p := newPod(t, func(p *pod, c *inbound.Config) { p.web.Name, c.WorkloadWait = "web-1", short })
	_ = proxytest.Ended(p.plain(t, clientIP))
	p.access.Wait(t, "WARN connection failed", "error=failed to fetch information about local workload: web.default (web)")
	p.rejected(t, connection.ReasonUnknownWorkload, nil)
}

func TestPlaintext_DeniedByPolicy(t *testing.T) {
	p := newPod(t, nil)
	p.put(proxytest.Workload("client", clientIP))
	p.policies.Replace([]*rbac.Policy{allowOnly(clientID)}) // an address proves nothing
	_ = proxytest.Ended(p.plain(t, clientIP))
	line := p.access.Wait(t, "ERROR connection complete")
	contains(t, line, "src.workload=client", "dst.workload=web", "dst.addr="+p.listeners[1].Addr().String(),
		"error=connection closed due to policy rejection: allow policies exist, but none allowed")
	if p.access.Has("src.identity") {
		t.Error("an identity is logged of a client without one")
	}
	labels := connectiontest.Labels{
		"response_flags": "DENY", "connection_security_policy": "unknown", "source_workload": "client-controller",
		"source_principal": "unknown", "destination_workload": "web-controller",
	}
	if n := p.metrics.Sum(t, "istio_tcp_connections_closed_total", labels); n != 1 {
		t.Errorf("closed = %d, want 1", n)
	}
}

// redirected serves a pod and connects a client to it whose original
// destination is an application. That needs no redirection: the connection is
// taken by the proxy's listener, whose address the application has then, before
// the pod's record is known for which the connection waits.
func redirected(t *testing.T, app func(*net.TCPConn)) (*pod, *net.TCPConn) {
	t.Helper()
	p, c, known := waiting(t, app)
	known()
	return p, c
}

// waiting is redirected with a connection that waits until known is called.
func waiting(t *testing.T, app func(*net.TCPConn)) (p *pod, c *net.TCPConn, known func()) {
	t.Helper()
	p = newPod(t, func(p *pod, _ *inbound.Config) { p.web.Name = "later" })
	c = p.plain(t, clientIP)
	proxytest.Until(t, "the connection is served", func() bool { return p.metrics.Sum(t, "istio_tcp_sockets_open", nil) == 1 })
	addr := p.listeners[1].Addr().String()
	_ = p.listeners[1].Close()
	proxytest.ApplicationAt(t, addr, app)
	return p, c, func() { p.put(proxytest.Workload("web", podIP)) }
}

// A client that has reset its connection is nobody to trouble the application for.
func TestPlaintext_ResetBeforeDial(t *testing.T) {
	var reached atomic.Int32
	p, c, known := waiting(t, func(c *net.TCPConn) { reached.Add(1); _, _ = io.Copy(c, c) })
	_ = c.SetLinger(0)
	_ = c.Close() // over loopback the reset has arrived when this returns
	known()
	line := p.access.Wait(t, "INFO connection complete")
	contains(t, line, "bytes_sent=0", "bytes_recv=0")
	if strings.Contains(line, "error=") {
		t.Errorf("a reset is told as a failure: %s", line)
	}
	// Another connection comes after what the first one would have made.
	proxytest.Say(t, proxytest.Dial(t, clientIP, c.RemoteAddr()), "hello")
	if n := reached.Load(); n != 1 {
		t.Errorf("the application has %d connections, want the last one alone", n)
	}
}

func TestPlaintext_EchoIsCountedAndLogged(t *testing.T) {
	p, c := redirected(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	proxytest.Say(t, c, "hello world")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := proxytest.Ended(c); err != nil {
		t.Errorf("the connection ended with %v, want a good end", err)
	}
	contains(t, p.access.Wait(t, "INFO connection complete"), "dst.addr="+c.RemoteAddr().String(), "bytes_sent=11", "bytes_recv=11")
	for family, want := range map[string]int64{
		"istio_tcp_connections_opened_total": 1, "istio_tcp_connections_closed_total": 1,
		"istio_tcp_received_bytes_total": 11, "istio_tcp_sent_bytes_total": 11, "istio_tcp_connections_failed_total": 0,
	} {
		if got := p.metrics.Sum(t, family, connectiontest.Labels{"reporter": "destination", "response_flags": "-"}); got != want {
			t.Errorf("%s = %d, want %d", family, got, want)
		}
	}
}

func TestPlaintext_PolicyChangeCutsIt(t *testing.T) {
	p, c := redirected(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	proxytest.Say(t, c, "hello")
	p.policies.Replace([]*rbac.Policy{allowOnly(clientID)})
	if ended := p.live.Recheck(); len(ended) != 1 {
		t.Errorf("%d connections were ended, want 1", len(ended))
	}
	_ = proxytest.Ended(c)
	p.access.Wait(t, "ERROR connection complete", "error=connection closed due to policy change")
	failedWith(t, p, "DENY")
}

func TestPlaintext_ApplicationRefuses(t *testing.T) {
	p := newPod(t, func(p *pod, _ *inbound.Config) { p.web.Name = "later" })
	c := p.plain(t, clientIP)
	proxytest.Until(t, "the connection is served", func() bool { return p.metrics.Sum(t, "istio_tcp_sockets_open", nil) == 1 })
	_ = p.listeners[1].Close()
	p.put(proxytest.Workload("web", podIP))
	_ = proxytest.Ended(c)
	p.access.Wait(t, "ERROR connection complete", "error=connection failed: Connection refused (os error 111)")
	failedWith(t, p, "CONNECT")
}

func TestPlaintext_Cut(t *testing.T) {
	p, c := redirected(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	proxytest.Say(t, c, "hello")
	p.stopListening()
	p.cut(live.ErrDraining)
	p.served.Wait()
	_ = proxytest.Ended(c)
	p.access.Wait(t, "ERROR connection complete", "error=connection closed due to connection drain", "bytes_sent=5")
}

// Without redirection or an application, what is forwarded comes back to the
// listener: the second time it is above the limit.
func TestPlaintext_LimitOfConnections(t *testing.T) {
	p := newPod(t, func(_ *pod, c *inbound.Config) { c.MaxConnections = 1 })
	c := p.plain(t, clientIP)
	_ = proxytest.Ended(c)
	p.access.Wait(t, "WARN connection failed", "error=too many connections: the limit of this pod is 1")
	p.rejected(t, connection.ReasonLimit, nil)
	_ = c.Close()
	contains(t, p.access.Wait(t, "connection complete"), "src.addr="+clientIP+":")
}

func TestPlaintext_Panic(t *testing.T) {
	p := newPod(t, func(_ *pod, c *inbound.Config) { c.Live = nil })
	_ = proxytest.Ended(p.plain(t, clientIP))
	p.log.Wait(t, "ERROR panic while serving a connection", "stack=")
	if n := p.panics.Load(); n != 1 {
		t.Errorf("panics = %d, want 1", n)
	}
}
