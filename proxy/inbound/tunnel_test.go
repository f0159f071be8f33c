package inbound_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/inbound"
	"ztunnel/proxy/live"
	"ztunnel/proxy/proxytest"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/connection/connectiontest"
)

func TestTunnel_GarbageInsteadOfTLS(t *testing.T) {
	p := newPod(t, nil)
	c := proxytest.Dial(t, clientIP, p.hboneAddr())
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = proxytest.Ended(c) // with a reset or without, but soon
	contains(t, p.access.Wait(t, "WARN connection failed"), "src.addr="+clientIP+":", "dst.addr="+p.hboneAddr().String(),
		"direction=inbound", "error=tls handshake error: ")
	p.rejected(t, connection.ReasonTLSHandshake, connectiontest.Labels{"destination_workload": "web-controller"})
}

func TestTunnel_BadClients(t *testing.T) {
	foreign := identitytest.NewCA(t)
	for name, tc := range map[string]struct {
		config func(p *pod) *tls.Config
		reason connection.Reason
		text   string
	}{
		"no certificate": {func(p *pod) *tls.Config {
			c := p.clientTLS(t, clientID).Clone()
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
			return c
		}, connection.ReasonNoClientCert, "NoCertificatesPresented"},
		"a certificate of somebody else": {func(p *pod) *tls.Config {
			c := p.clientTLS(t, clientID).Clone()
			theirs := foreign.Workload(t, clientID).ClientConfig(nil)
			c.GetClientCertificate = theirs.GetClientCertificate
			return c
		}, connection.ReasonUntrustedCert, "UnknownIssuer"},
		"another trust domain": {func(p *pod) *tls.Config {
			return p.clientTLS(t, "spiffe://elsewhere/ns/default/sa/client")
		}, connection.ReasonUntrustedCert, "SanTrustDomainError"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, nil)
			c, err := hbone.Client(t.Context(), proxytest.Dial(t, clientIP, p.hboneAddr()), tc.config(p), nil)
			if err == nil { // in TLS 1.3 the client learns of it later
				<-c.Done()
			}
			contains(t, p.access.Wait(t, "WARN connection failed"), "error=tls handshake error: ", tc.text)
			p.rejected(t, tc.reason, nil)
		})
	}
}

// A client that says nothing is closed after the handshake's time, whichever
// part of the handshake it is silent in.
func TestTunnel_SilentClient(t *testing.T) {
	for name, speak := range map[string]func(*testing.T, *pod, net.Conn) net.Conn{
		"before TLS": func(_ *testing.T, _ *pod, c net.Conn) net.Conn { return c },
		"after TLS": func(t *testing.T, p *pod, c net.Conn) net.Conn {
			conn := tls.Client(c, p.clientTLS(t, clientID))
			if err := conn.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			return conn
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, func(_ *pod, c *inbound.Config) { c.HBONE = &hbone.Config{HandshakeTimeout: 4 * short} })
			c := speak(t, p, proxytest.Dial(t, clientIP, p.hboneAddr()))
			_ = proxytest.Ended(c)
			contains(t, p.access.Wait(t, "WARN connection failed"), "timed out waiting for")
			p.rejected(t, connection.ReasonHandshakeTimeout, nil)
		})
	}
}

// A client that floods its tunnel is cut off, counted and logged once.
func TestTunnel_Flood(t *testing.T) {
	p := newPod(t, nil)
	c := tls.Client(proxytest.Dial(t, clientIP, p.hboneAddr()), p.clientTLS(t, clientID))
	flood := []byte(http2.ClientPreface)
	flood = append(flood, 0, 0, 0, byte(http2.FrameSettings), 0, 0, 0, 0, 0)
	for range 300 {
		flood = append(flood, 0, 0, 8, byte(http2.FramePing), 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8)
	}
	if _, err := c.Write(flood); err != nil {
		t.Fatal(err)
	}
	_ = proxytest.Ended(c)
	contains(t, p.access.Wait(t, "WARN connection failed"), "detected excessive load generating behavior")
	p.rejected(t, connection.ReasonFlood, connectiontest.Labels{"destination_workload": "web-controller"})
}

func TestTunnel_NoCertificateOfOurOwn(t *testing.T) {
	p := newPod(t, func(_ *pod, c *inbound.Config) {
		c.Certificates = &proxytest.Certificates{Err: errors.New("the CA is out")}
	})
	_ = proxytest.Ended(proxytest.Dial(t, clientIP, p.hboneAddr()))
	p.access.Wait(t, "WARN connection failed", "error=signing error: the CA is out")
	p.rejected(t, connection.ReasonTLSHandshake, nil)
}

func TestTunnel_UnknownWorkload(t *testing.T) {
	p := newPod(t, func(p *pod, c *inbound.Config) { p.web.Name, c.WorkloadWait = "web-1", short })
	_ = proxytest.Ended(proxytest.Dial(t, clientIP, p.hboneAddr()))
	p.access.Wait(t, "WARN connection failed", "error=signing error: workload is unknown: web.default (web)")
	p.rejected(t, connection.ReasonUnknownWorkload, nil)
}

// Clients that keep handshakes waiting use up their share and no more.
func TestTunnel_LimitOfHandshakes(t *testing.T) {
	p := newPod(t, func(_ *pod, c *inbound.Config) { c.MaxHandshakes = 2 })
	var silent []net.Conn
	for range 2 {
		silent = append(silent, proxytest.Dial(t, clientIP, p.hboneAddr()))
	}
	proxytest.Until(t, "both are being served", func() bool { return p.metrics.Sum(t, "istio_tcp_sockets_open", nil) == 2 })
	_ = proxytest.Ended(proxytest.Dial(t, clientIP, p.hboneAddr()))
	p.access.Wait(t, "WARN connection failed", "error=too many pending TLS handshakes: the limit of this pod is 2")
	p.rejected(t, connection.ReasonLimit, nil)
	_ = silent[0].Close()
	proxytest.Until(t, "there is room again", func() bool { return p.metrics.Sum(t, "istio_tcp_sockets_open", nil) == 1 })
	proxytest.Say(t, open(t, p.client(t), proxytest.Echo(t, podIP).String()), "hello")
}

func TestTunnel_LimitOfConnections(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	p := newPod(t, func(_ *pod, c *inbound.Config) { c.MaxConnections = 1 })
	s := open(t, p.client(t), app.String())
	_ = proxytest.Ended(proxytest.Dial(t, clientIP, p.hboneAddr()))
	p.access.Wait(t, "WARN connection failed", "error=too many HBONE connections: the limit of this pod is 1")
	p.rejected(t, connection.ReasonLimit, nil)
	proxytest.Say(t, s, "who is in stays in")
}

// A drain sends new streams elsewhere, lets open ones go on, and ends with them.
func TestTunnel_Drain(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	p := newPod(t, nil)
	busy, idle := p.client(t), p.client(t)
	s := open(t, busy, app.String())
	proxytest.Say(t, s, "before")
	p.stopListening()
	p.Drain()
	<-idle.Done()
	proxytest.Until(t, "the client has heard GOAWAY", func() bool { return !busy.Usable() })
	if _, err := busy.Open(t.Context(), &hbone.Request{Method: "CONNECT", Authority: app.String()}); !errors.Is(err, hbone.ErrTunnelClosing) {
		t.Errorf("CONNECT on a draining tunnel = %v, want ErrTunnelClosing", err)
	}
	proxytest.Say(t, s, "during")
	finish(t, s)
	p.served.Wait()
	<-busy.Done()
	contains(t, p.access.Wait(t, "INFO connection complete"), "bytes_sent=12")
}

// What a drain has to cut is told as such, and is no failure.
func TestTunnel_Cut(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	p := newPod(t, nil)
	s := open(t, p.client(t), app.String())
	proxytest.Say(t, s, "before")
	p.stopListening()
	p.cut(live.ErrDraining)
	p.served.Wait()
	p.access.Wait(t, "ERROR connection complete", "error=connection closed due to connection drain")
	if n := p.metrics.Sum(t, "istio_tcp_connections_closed_total", connectiontest.Labels{"response_flags": "-"}); n != 1 {
		t.Errorf("closed with - = %d, want 1", n)
	}
	if n := p.metrics.Sum(t, "istio_tcp_connections_failed_total", nil); n != 0 {
		t.Errorf("failed = %d, want 0", n)
	}
}

// Tunnels in the middle of everything, ended at any moment, leave nothing
// behind: newPod and goleak look.
func TestTunnel_CutUnderLoad(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	p := newPod(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	for range 4 {
		c := p.client(t)
		for range 4 {
			clients.Go(func() {
				for ctx.Err() == nil {
					s, err := c.Open(ctx, &hbone.Request{Method: "CONNECT", Authority: app.String()})
					if err != nil {
						return
					}
					err = proxytest.Exchange(s, "hello")
					_ = s.Close()
					if err != nil {
						return
					}
				}
			})
		}
	}
	proxytest.Until(t, "there is traffic", func() bool { return p.metrics.Sum(t, "istio_tcp_connections_closed_total", nil) > 50 })
	p.stopListening()
	p.cut(live.ErrDraining)
	p.served.Wait()
	clients.Wait()
}
