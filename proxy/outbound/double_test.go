package outbound_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/connection/connectiontest"
)

const (
	gatewayIP = "127.0.0.40"
	farIP     = "127.0.0.41"
	farID     = "spiffe://cluster.local/ns/default/sa/far"
	gatewayID = "spiffe://cluster.local/ns/default/sa/gateway"
)

// gateway serves a network gateway that hands the bytes of every stream to one
// address, and returns the headers of its requests.
func (p *pod) gateway(t *testing.T, to net.Addr) (port uint16, requests <-chan hbone.Request) {
	t.Helper()
	server := p.ca.Workload(t, gatewayID).ServerConfig()
	seen := make(chan hbone.Request, 16)
	ctx, cancel := context.WithCancel(context.Background())
	var relays sync.WaitGroup
	addr := proxytest.Application(t, gatewayIP, func(c *net.TCPConn) {
		s, err := hbone.Server(ctx, c, server, nil)
		if err != nil {
			return
		}
		_ = s.Serve(ctx, func(_ context.Context, stream *hbone.Stream) {
			seen <- *stream.Request()
			far, err := net.Dial("tcp", to.String())
			if err != nil || stream.Accept(nil) != nil {
				_ = stream.Reject(503)
				return
			}
			relays.Go(func() { _, _ = io.Copy(far, stream); _ = far.Close() })
			_, _ = io.Copy(stream, far)
			_ = stream.Close()
			relays.Wait()
		})
	})
	t.Cleanup(cancel)
	return addr.Port(), seen
}

// farService is a service of another network, with the identities that its far
// end may have.
func (p *pod) farService(gatewayPort uint16, ids ...spiffe.ID) netip.AddrPort {
	gw := proxytest.Workload("gateway", gatewayIP)
	gw.Network = "far"
	endpoint := proxytest.Workload("far", farIP)
	endpoint.Network = "far"
	endpoint.NetworkGateway = &workload.Gateway{
		Address: workload.NetworkAddress{Network: "far", Addr: netip.MustParseAddr(gatewayIP)}, Port: gatewayPort,
	}
	endpoint.Services[workload.NamespacedHostname{Namespace: "default", Hostname: "far.default"}] = workload.PortMap{80: 8080}
	p.store.Apply(workload.Update{Workloads: []*workload.Workload{gw, endpoint}, Services: []*workload.Service{{
		Name: "far", Namespace: "default", Hostname: "far.default", Ports: workload.PortMap{80: 8080}, SANs: ids,
		VIPs: []workload.NetworkAddress{{Addr: netip.MustParseAddr("10.0.0.1")}},
	}}})
	return netip.MustParseAddrPort("10.0.0.1:80")
}

func spiffeID(account string) spiffe.ID {
	return spiffe.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: account}
}

func TestDoubleHBONE_EndToEnd(t *testing.T) {
	echo := proxytest.Echo(t, farIP)
	p := newPod(t, nil)
	far := proxytest.Workload("far", farIP)
	store := workload.NewStore(workload.Config{})
	store.Apply(workload.Update{Workloads: []*workload.Workload{far}, Services: []*workload.Service{{
		Name: "far", Namespace: "default", Hostname: "far.default", Ports: workload.PortMap{80: echo.Port()},
	}}})
	ln := proxytest.Listen(t, farIP)
	_, farLog := p.destination(t, ln, far, store, "far")
	port, outer := p.gateway(t, ln.Addr())
	app := p.connect(t, p.farService(port, spiffeID("far")))
	proxytest.Say(t, app, "hello world")
	finish(t, app)
	p.complete(t, "INFO", "dst.addr="+gatewayIP, "dst.hbone_addr=far.default:80", "dst.service=far.default",
		"dst.workload=far-controller", "dst.identity="+farID, "bytes_sent=11", "bytes_recv=11")
	if text := p.log.String(); strings.Contains(text, "Error in HBONE") {
		t.Errorf("the end of the inner tunnel is told as a failure:\n%s", text)
	}
	p.counted(t, connectiontest.Labels{"destination_workload": "far-controller", "destination_principal": farID, "destination_service": "far.default"})
	r := <-outer
	if r.Authority != "far.default:80" || len(r.Header.Values("x-forwarded-network")) != 0 {
		t.Errorf("outer request = %+v, want far.default:80 without x-forwarded-network", r)
	}
	if got := r.Header.Get("forwarded"); got != `for="`+socketAddr(app)+`";host=far.default` {
		t.Errorf("forwarded = %q", got)
	}
	// The far end takes the source from what it says, as it is of another network.
	farLog.Wait(t, "INFO connection complete", "src.identity="+clientID, "src.workload=client-canonical", "bytes_sent=11")
}

// Whatever fails on the way is one connection with its error, and leaves nothing.
func TestDoubleHBONE_Failures(t *testing.T) {
	t.Run("the far end is somebody else", func(t *testing.T) {
		p := newPod(t, nil)
		server := p.serverTLS(t, "spiffe://cluster.local/ns/default/sa/imposter")
		far := proxytest.Application(t, farIP, func(c *net.TCPConn) { _ = tls.Server(c, server).Handshake() })
		port, _ := p.gateway(t, net.TCPAddrFromAddrPort(far))
		_ = proxytest.Ended(p.connect(t, p.farService(port, spiffeID("far"))))
		p.failed(t, connection.FlagTLS, "tls error: invalid peer certificate: Other(OtherError(identity verification error: "+
			"peer did not present the expected SAN ("+farID+")")
	})
	t.Run("the far end is gone", func(t *testing.T) {
		p := newPod(t, nil)
		port, _ := p.gateway(t, net.TCPAddrFromAddrPort(closedPort(t, farIP)))
		_ = proxytest.Ended(p.connect(t, p.farService(port, spiffeID("far"))))
		p.failed(t, connection.FlagConnect, "http status: 503 Service Unavailable")
	})
	t.Run("the far end refuses", func(t *testing.T) {
		p := newPod(t, nil)
		far := proxytest.Workload("far", farIP)
		store := workload.NewStore(workload.Config{})
		store.Apply(workload.Update{Workloads: []*workload.Workload{far}})
		ln := proxytest.Listen(t, farIP)
		p.destination(t, ln, far, store, "far")
		port, _ := p.gateway(t, ln.Addr())
		_ = proxytest.Ended(p.connect(t, p.farService(port, spiffeID("far"))))
		p.failed(t, connection.FlagConnect, "http status: 503 Service Unavailable")
	})
	t.Run("no certificate for the inner tunnel", func(t *testing.T) {
		p := newPod(t, nil)
		far := proxytest.Application(t, farIP, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
		port, _ := p.gateway(t, net.TCPAddrFromAddrPort(far))
		p.certs.FailAfter(1)
		_ = proxytest.Ended(p.connect(t, p.farService(port, spiffeID("far"))))
		p.failed(t, connection.FlagIdentity, "identity error: out of certificates")
	})
}
