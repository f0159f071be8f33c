package inbound_test

import (
	"io"
	"net"
	"testing"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/inbound"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection/connectiontest"
)

// echoTwice sends back 11 bytes twice.
func echoTwice(c *net.TCPConn) {
	b := make([]byte, 11)
	if _, err := io.ReadFull(c, b); err == nil {
		_, _ = c.Write(append(b, b...))
	}
	_, _ = io.Copy(io.Discard, c)
}

// Of 11 bytes in plain text that are answered by 22, 11 count as received and 22
// as sent; the log tells what the server has sent and received.
func TestEdge_BytesInPlainText(t *testing.T) {
	p, c := redirected(t, echoTwice)
	if _, err := io.WriteString(c, "hello world"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 22)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := proxytest.Ended(c); err != nil {
		t.Errorf("the connection ended with %v, want a good end", err)
	}
	contains(t, p.access.Wait(t, "INFO connection complete"), "direction=inbound", "bytes_sent=22", "bytes_recv=11")
	if p.access.Has("identity") {
		t.Error("an identity is logged of a connection without one")
	}
	for family, want := range map[string]int64{"istio_tcp_received_bytes_total": 11, "istio_tcp_sent_bytes_total": 22} {
		if got := p.metrics.Sum(t, family, connectiontest.Labels{"reporter": "destination"}); got != want {
			t.Errorf("%s = %d, want %d", family, got, want)
		}
	}
}

// The service that a client has called is that of the labels: the one it names,
// or the first that leads to the port.
func TestEdge_ServiceIsGuessed(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	p := newPod(t, func(p *pod, _ *inbound.Config) {
		for _, host := range []string{"a.default", "b.default"} {
			p.web.Services[workload.NamespacedHostname{Namespace: "default", Hostname: host}] = workload.PortMap{}
		}
	})
	for _, host := range []string{"a", "b"} {
		p.store.Apply(workload.Update{Services: []*workload.Service{
			{Name: host, Namespace: "default", Hostname: host + ".default", Ports: workload.PortMap{80: app.Port()}, Canonical: true},
		}})
	}
	c := p.client(t)
	count := func(name string) int64 {
		return p.metrics.Sum(t, "istio_tcp_connections_opened_total", connectiontest.Labels{
			"destination_service": name + ".default", "destination_service_name": name, "destination_service_namespace": "default",
			"destination_principal": "spiffe://cluster.local/ns/default/sa/web",
		})
	}
	open(t, c, app.String(), hbone.Field{Name: "forwarded", Value: `for="127.0.0.5:1";host=b.default`})
	if a, b := count("a"), count("b"); a != 0 || b != 1 {
		t.Errorf("to a: %d, to b: %d, want that which the client names, b", a, b)
	}
	open(t, c, app.String())
	if n := count("a") + count("b"); n != 2 {
		t.Errorf("%d connections with a service, want a guess for the second one", n)
	}
}
