package inbound_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/inbound"
	"ztunnel/proxy/needs"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/connection/connectiontest"
)

func TestStream_EchoIsCountedAndLogged(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	p := newPod(t, nil)
	p.put(proxytest.Workload("client", clientIP))
	s := open(t, p.client(t), app.String())
	proxytest.Say(t, s, "hello world")
	traffic := connectiontest.Labels{
		"reporter": "destination", "source_workload": "client-controller", "source_principal": clientID,
		"destination_workload": "web-controller", "destination_principal": "spiffe://cluster.local/ns/default/sa/web",
		"connection_security_policy": "mutual_tls", "response_flags": "-",
	}
	if n := p.metrics.Sum(t, "istio_tcp_sockets_open", connectiontest.Labels{"reporter": "destination"}); n != 1 {
		t.Errorf("open sockets = %d, want 1", n)
	}
	finish(t, s)
	line := p.access.Wait(t, "INFO connection complete")
	contains(t, line, "src.addr="+clientIP+":", "src.workload=client", "src.identity="+clientID, "dst.addr="+p.hboneAddr().String(),
		"dst.hbone_addr="+app.String(), "dst.workload=web", "direction=inbound", "bytes_sent=11", "bytes_recv=11")
	for family, want := range map[string]int64{
		"istio_tcp_connections_opened_total": 1, "istio_tcp_connections_closed_total": 1,
		"istio_tcp_received_bytes_total": 11, "istio_tcp_sent_bytes_total": 11, "istio_tcp_connections_failed_total": 0,
	} {
		if got := p.metrics.Sum(t, family, traffic); got != want {
			t.Errorf("%s = %d, want %d", family, got, want)
		}
	}
}

func TestStream_Refusals(t *testing.T) {
	const own = 15008
	for name, tc := range map[string]struct {
		method, authority string
		status            int
		reason            connection.Reason
		text              string
	}{
		"another method":    {"GET", podIP + ":80", 400, connection.ReasonBadRequest, "expected method CONNECT, got GET"},
		"no authority":      {"CONNECT", "nonsense", 400, connection.ReasonBadAuthority, "no valid authority pseudo header: nonsense"},
		"another address":   {"CONNECT", "127.0.0.9:80", 400, connection.ReasonIPMismatch, "ip mismatch: 127.0.0.2 != 127.0.0.9"},
		"unknown host":      {"CONNECT", "nobody.default:80", 503, connection.ReasonUnknownHost, "no service or workload for hostname: nobody.default"},
		"unknown port":      {"CONNECT", "web.default:81", 503, connection.ReasonUnknownHost, "requested service web.default:81 found, but cannot resolve port"},
		"one of our own":    {"CONNECT", podIP + ":15008", 503, connection.ReasonSelfCall, "attempted recursive call to ourselves"},
		"ours by a service": {"CONNECT", "web.default:82", 503, connection.ReasonSelfCall, "attempted recursive call to ourselves"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, func(_ *pod, c *inbound.Config) { c.IllegalPorts = []uint16{own} })
			p.store.Apply(workload.Update{Services: []*workload.Service{{
				Name: "web", Namespace: "default", Hostname: "web.default", Ports: workload.PortMap{80: 8080, 82: own},
			}}})
			r := &hbone.Request{Method: tc.method, Authority: tc.authority}
			if tc.method != "CONNECT" {
				r.Header = hbone.Header{{Name: ":scheme", Value: "https"}, {Name: ":path", Value: "/"}}
			}
			_, err := p.client(t).Open(t.Context(), r)
			refusedWith(t, err, tc.status)
			contains(t, p.access.Wait(t, "WARN connection failed"), "direction=inbound", "error="+tc.text)
			p.rejected(t, tc.reason, connectiontest.Labels{"destination_workload": "web-controller"})
			if n := p.metrics.Sum(t, "istio_tcp_connections_opened_total", nil); n != 0 {
				t.Errorf("opened = %d, want none", n)
			}
		})
	}
}

// refusedWith fails the test unless err is a status.
func refusedWith(t *testing.T, err error, status int) {
	t.Helper()
	answer, ok := errors.AsType[*hbone.StatusError](err)
	if !ok || answer.Code != status {
		t.Fatalf("CONNECT = %v, want status %d", err, status)
	}
}

func TestStream_UnknownWorkload(t *testing.T) {
	p := newPod(t, func(_ *pod, c *inbound.Config) { c.WorkloadWait = short })
	c := p.client(t)
	open(t, c, proxytest.Echo(t, podIP).String()) // the record is known at first
	p.store.Apply(workload.Update{RemovedWorkloads: []string{"web"}})
	_, err := c.Open(t.Context(), &hbone.Request{Method: "CONNECT", Authority: podIP + ":80"})
	refusedWith(t, err, 503)
	p.access.Wait(t, "WARN connection failed", "error=failed to fetch information about local workload: web.default (web)")
	p.log.Wait(t, "WARN timed out waiting for workload 'web.default (web)' from xds")
	p.rejected(t, connection.ReasonUnknownWorkload, nil)
}

func TestStream_DeniedByPolicy(t *testing.T) {
	p := newPod(t, nil)
	p.policies.Replace([]*rbac.Policy{allowOnly(otherID)})
	_, err := p.client(t).Open(t.Context(), &hbone.Request{Method: "CONNECT", Authority: podIP + ":80"})
	refusedWith(t, err, 401)
	contains(t, p.access.Wait(t, "ERROR connection complete"),
		"error=connection closed due to policy rejection: allow policies exist, but none allowed", "bytes_sent=0")
	failedWith(t, p, "DENY")
}

func failedWith(t *testing.T, p *pod, flag string) {
	t.Helper()
	if n := p.metrics.Sum(t, "istio_tcp_connections_failed_total", connectiontest.Labels{"response_flags": flag}); n != 1 {
		t.Errorf("failed with %s = %d, want 1", flag, n)
	}
}

func TestStream_ApplicationRefuses(t *testing.T) {
	ln := proxytest.Listen(t, podIP)
	closed := ln.Addr().String()
	_ = ln.Close()
	p := newPod(t, nil)
	_, err := p.client(t).Open(t.Context(), &hbone.Request{Method: "CONNECT", Authority: closed})
	refusedWith(t, err, 503)
	p.access.Wait(t, "ERROR connection complete", "error=connection failed: Connection refused (os error 111)")
	failedWith(t, p, "CONNECT")
}

func TestStream_AnswerTellsOfTheWorkload(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	for _, on := range []bool{true, false} {
		t.Run(fmt.Sprint(on), func(t *testing.T) {
			p := newPod(t, func(_ *pod, c *inbound.Config) { c.Baggage = on })
			want := ""
			if on {
				want = "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.deployment.name=web-controller,service.name=web-canonical,service.version=v1"
			}
			if got := open(t, p.client(t), app.String()).ResponseHeader().Get("baggage"); got != want {
				t.Errorf("baggage = %q, want %q", got, want)
			}
		})
	}
}

func TestStream_WhereTheSourceIsFrom(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	said := hbone.Field{Name: "baggage", Value: "k8s.deployment.name=claim,k8s.namespace.name=far,service.name=canon"}
	network := func(n string) hbone.Field { return hbone.Field{Name: "x-forwarded-network", Value: n} }
	for name, tc := range map[string]struct {
		from    string
		baggage bool
		header  []hbone.Field
		want    string
	}{
		"its record":                         {clientIP, true, []hbone.Field{said}, "client-controller"},
		"what it says":                       {strangerIP, true, []hbone.Field{said}, "claim"},
		"nothing, as it is not believed":     {strangerIP, false, []hbone.Field{said}, "unknown"},
		"another network, whatever the IP":   {clientIP, true, []hbone.Field{said, network("far")}, "claim"},
		"our network, in other letters":      {clientIP, true, []hbone.Field{said, network("MAIN")}, "client-controller"},
		"another network that says nothing":  {clientIP, true, []hbone.Field{network("far")}, "unknown"},
		"another network, whose word is out": {clientIP, false, []hbone.Field{said, network("far")}, "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, func(_ *pod, c *inbound.Config) { c.Baggage = tc.baggage })
			p.put(proxytest.Workload("client", clientIP))
			open(t, p.tunnel(t, tc.from, clientID), app.String(), tc.header...)
			labels := connectiontest.Labels{"source_workload": tc.want, "source_principal": clientID}
			if n := p.metrics.Sum(t, "istio_tcp_connections_opened_total", labels); n != 1 {
				t.Errorf("opened from %s = %d, want 1", tc.want, n)
			}
		})
	}
}

func TestStream_AuthorityIsAHostname(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	p := newPod(t, func(p *pod, _ *inbound.Config) {
		p.web.Services[workload.NamespacedHostname{Namespace: "default", Hostname: "named.default"}] = workload.PortMap{80: app.Port()}
	})
	p.store.Apply(workload.Update{Services: []*workload.Service{
		{Name: "plain", Namespace: "default", Hostname: "plain.default", Ports: workload.PortMap{80: app.Port()}},
		{Name: "named", Namespace: "default", Hostname: "named.default", Ports: workload.PortMap{80: 0}},
	}})
	c := p.client(t)
	for _, host := range []string{"plain.default", "named.default"} {
		s := open(t, c, host+":80")
		proxytest.Say(t, s, "hello")
		labels := connectiontest.Labels{"destination_service": host}
		if n := p.metrics.Sum(t, "istio_tcp_connections_opened_total", labels); n != 1 {
			t.Errorf("opened to service %s = %d, want 1", host, n)
		}
	}
}

// The application behind a tunnel learns who the client is and what it asked for.
func TestStream_ApplicationTunnel(t *testing.T) {
	for _, local := range []bool{true, false} {
		t.Run(fmt.Sprintf("localhost=%t", local), func(t *testing.T) {
			appIP := podIP
			if local {
				appIP = "127.0.0.1"
			}
			got := make(chan []byte, 1)
			app := proxytest.Application(t, appIP, func(c *net.TCPConn) {
				b := make([]byte, 16+12+3+len(clientID))
				if _, err := io.ReadFull(c, b); err == nil {
					got <- b
				}
				_, _ = io.Copy(c, c)
			})
			p := newPod(t, func(p *pod, c *inbound.Config) {
				p.web.ApplicationTunnel = &workload.ApplicationTunnel{Protocol: workload.AppTunnelProxy, Port: app.Port()}
				c.LocalhostAppTunnel = local
			})
			s := open(t, p.client(t), "192.0.2.7:443") // any address, as the workload tunnels
			proxytest.Say(t, s, "hello")
			finish(t, s)
			line := p.access.Wait(t, "INFO connection complete")
			contains(t, line, "bytes_sent=5", "bytes_recv=5", "dst.hbone_addr=192.0.2.7:443")
			_, src, _ := strings.Cut(line, "src.addr=")
			src, _, _ = strings.Cut(src, " ")
			if want := string(inbound.ProxyHeader(netip.MustParseAddrPort(src), netip.MustParseAddrPort("192.0.2.7:443"), clientID)); string(<-got) != want {
				t.Errorf("the application got another header than %x", want)
			}
		})
	}
}

func TestStream_KeepsTheSource(t *testing.T) {
	needs.Root(t)
	for _, keep := range []bool{true, false} {
		seen := make(chan netip.Addr, 1)
		app := proxytest.Application(t, podIP, func(c *net.TCPConn) { seen <- socket.Peer(c).Addr(); _, _ = io.Copy(c, c) })
		p := newPod(t, func(_ *pod, c *inbound.Config) { c.KeepSource = keep })
		proxytest.Say(t, open(t, p.client(t), app.String()), "hello")
		want := "127.0.0.1" // what the kernel picks
		if keep {
			want = clientIP
		}
		if got := (<-seen).String(); got != want {
			t.Errorf("KeepSource %t: the application sees %s, want %s", keep, got, want)
		}
	}
}

// A policy that comes later cuts what it forbids, and nothing else of the tunnel.
func TestStream_PolicyChangeCutsIt(t *testing.T) {
	allowed, denied := proxytest.Echo(t, podIP), proxytest.Echo(t, podIP)
	p := newPod(t, nil)
	c := p.client(t)
	stays, goes := open(t, c, allowed.String()), open(t, c, denied.String())
	proxytest.Say(t, stays, "a")
	proxytest.Say(t, goes, "b")
	p.policies.Replace([]*rbac.Policy{allowOnly(clientID, allowed.Port())})
	if ended := p.live.Recheck(); len(ended) != 1 {
		t.Errorf("%d streams were ended, want 1", len(ended))
	}
	if err := proxytest.Ended(goes); err != nil {
		t.Errorf("the stream ended with %v, want CANCEL, which reads as an end of file", err)
	}
	if err := proxytest.Exchange(goes, "x"); err == nil {
		t.Error("the stream that policy forbids still works")
	}
	contains(t, p.access.Wait(t, "ERROR connection complete", denied.String()), "error=connection closed due to policy change")
	failedWith(t, p, "DENY")
	proxytest.Say(t, stays, "still here")
	proxytest.Say(t, open(t, c, allowed.String()), "and the tunnel too")
}

// A selector policy that is attached to the workload later counts as well.
func TestStream_WorkloadChangeCutsIt(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	p := newPod(t, nil)
	deny := &rbac.Policy{Name: "all", Namespace: "default", Scope: rbac.WorkloadSelector, Action: rbac.Deny, Rules: []rbac.Rule{{}}}
	p.policies.Replace([]*rbac.Policy{deny})
	s := open(t, p.client(t), app.String())
	proxytest.Say(t, s, "a")
	if ended := p.live.Recheck(); len(ended) != 0 {
		t.Fatalf("%d streams were ended before the policy applies", len(ended))
	}
	again := proxytest.Workload("web", podIP)
	again.AuthorizationPolicies = []string{"default/all"}
	p.put(again)
	if ended := p.live.Recheck(); len(ended) != 1 {
		t.Errorf("%d streams were ended, want 1", len(ended))
	}
	p.access.Wait(t, "ERROR connection complete", "error=connection closed due to policy change")
}

// A client that gives up its tunnel leaves nothing behind; newPod checks that.
func TestStream_ClientGoesAway(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	p := newPod(t, nil)
	c := p.client(t)
	for range 20 {
		s := open(t, c, app.String())
		proxytest.Say(t, s, "hello")
	}
	c.Abort(nil)
	proxytest.Until(t, "all streams have ended", func() bool { return p.live.Len() == 0 })
}
