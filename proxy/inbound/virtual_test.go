package inbound_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/inbound"
	"ztunnel/proxy/live"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/rbac"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/connection/connectiontest"
)

const (
	virtualPort  = 15020
	reservedPort = 15022
	panicPort    = 15023
)

var errNoAllow error = &deniedReader{}

type deniedReader struct{}

func (*deniedReader) Error() string                { return "needs an explicit allow" }
func (*deniedReader) FailureFlag() connection.Flag { return connection.FlagDeny }

// ports is a surface with one virtual port, which echoes.
type ports struct {
	needsAllow bool
	mu         sync.Mutex
	denied     []string
}

func (p *ports) Open(port uint16) (inbound.VirtualPort, error) {
	switch port {
	case virtualPort:
		return p, nil
	case reservedPort:
		return nil, errors.New("switched off")
	case panicPort:
		panic("the surface is broken")
	}
	return nil, nil
}

func (p *ports) Authorize(_ string, explicit bool) error {
	if p.needsAllow && !explicit {
		return errNoAllow
	}
	return nil
}

func (p *ports) Denied(src netip.AddrPort, peer string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.denied = append(p.denied, src.Addr().String()+" "+peer+" "+err.Error())
}

// Serve echoes, until ctx cuts the connection as a server of HTTP does.
func (p *ports) Serve(ctx context.Context, conn net.Conn, _ netip.AddrPort, _ string) error {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_, _ = io.Copy(conn, conn)
	_ = conn.Close()
	return context.Cause(ctx)
}

func newVirtualPod(t *testing.T, surface *ports) *pod {
	t.Helper()
	return newPod(t, func(_ *pod, c *inbound.Config) { c.Surface = surface })
}

func TestVirtual_ServedInTheProcessAndCounted(t *testing.T) {
	p := newVirtualPod(t, &ports{})
	s := open(t, p.client(t), "127.0.0.2:15020")
	proxytest.Say(t, s, "hello")
	finish(t, s)
	contains(t, p.access.Wait(t, "INFO connection complete"), "dst.hbone_addr=127.0.0.2:15020", "bytes_sent=5", "bytes_recv=5", "src.identity="+clientID)
	for _, family := range []string{"istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"} {
		if n := p.metrics.Sum(t, family, connectiontest.Labels{"reporter": "destination"}); n != 5 {
			t.Errorf("%s = %d, want 5", family, n)
		}
	}
}

func TestVirtual_OtherPortsAreTheApplications(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	p := newVirtualPod(t, &ports{})
	proxytest.Say(t, open(t, p.client(t), app.String()), "hello")
}

func TestVirtual_DeniedByPolicy(t *testing.T) {
	surface := &ports{}
	p := newVirtualPod(t, surface)
	p.policies.Replace([]*rbac.Policy{allowOnly(otherID)})
	const text = "connection closed due to policy rejection: allow policies exist, but none allowed"
	p.isDenied(t, surface, text)
}

func TestVirtual_DeniedBySurface(t *testing.T) {
	surface := &ports{needsAllow: true}
	p := newVirtualPod(t, surface)
	p.isDenied(t, surface, "needs an explicit allow")
}

func (p *pod) isDenied(t *testing.T, surface *ports, text string) {
	t.Helper()
	_, err := p.client(t).Open(t.Context(), &hbone.Request{Method: "CONNECT", Authority: "127.0.0.2:15020"})
	refusedWith(t, err, 401)
	p.access.Wait(t, "ERROR connection complete", "error="+text)
	failedWith(t, p, "DENY")
	surface.mu.Lock()
	defer surface.mu.Unlock()
	if want := clientIP + " " + clientID + " " + text; len(surface.denied) != 1 || surface.denied[0] != want {
		t.Errorf("denied readers = %q, want one %q", surface.denied, want)
	}
}

func TestVirtual_ReservedPortIsClosed(t *testing.T) {
	p := newVirtualPod(t, &ports{})
	_, err := p.client(t).Open(t.Context(), &hbone.Request{Method: "CONNECT", Authority: "127.0.0.2:15022"})
	refusedWith(t, err, 503)
	p.access.Wait(t, "WARN connection failed", "error=switched off")
	p.rejected(t, connection.ReasonNoSuchSurface, nil)
}

// A reader whose right came from a policy is cut when the policy goes, also
// where no policy means that everybody may do the rest.
func TestVirtual_LostAllowCutsTheReader(t *testing.T) {
	p := newVirtualPod(t, &ports{needsAllow: true})
	p.policies.Replace([]*rbac.Policy{allowOnly(clientID)})
	s := open(t, p.client(t), "127.0.0.2:15020")
	proxytest.Say(t, s, "hello")
	if ended := p.live.Recheck(); len(ended) != 0 {
		t.Fatalf("%d streams were ended while the policy holds", len(ended))
	}
	p.policies.Replace(nil)
	if ended := p.live.Recheck(); len(ended) != 1 {
		t.Errorf("%d streams were ended, want 1", len(ended))
	}
	_ = proxytest.Ended(s)
	p.access.Wait(t, "ERROR connection complete", "error=connection closed due to policy change")
	failedWith(t, p, "DENY")
}

// A reader that holds its stream does not hold the end of the pod.
func TestVirtual_CutAtTheDeadline(t *testing.T) {
	p := newVirtualPod(t, &ports{})
	s := open(t, p.client(t), "127.0.0.2:15020")
	proxytest.Say(t, s, "hello")
	p.stopListening()
	p.Drain()
	proxytest.Say(t, s, "a drain alone does not end it")
	p.cut(live.ErrDraining)
	p.served.Wait()
	p.access.Wait(t, "ERROR connection complete", "error=connection closed due to connection drain")
}

// A panic ends its stream and nothing else.
func TestVirtual_Panic(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	p := newVirtualPod(t, &ports{})
	c := p.client(t)
	other := open(t, c, app.String())
	_, err := c.Open(t.Context(), &hbone.Request{Method: "CONNECT", Authority: "127.0.0.2:15023"})
	if _, ok := errors.AsType[*hbone.H2Error](err); !ok {
		t.Errorf("CONNECT = %v, want a reset stream", err)
	}
	contains(t, p.log.Wait(t, "ERROR panic while serving a connection"), "panic=the surface is broken", "stack=")
	if n := p.panics.Load(); n != 1 {
		t.Errorf("panics = %d, want 1", n)
	}
	proxytest.Say(t, other, "still here")
}
