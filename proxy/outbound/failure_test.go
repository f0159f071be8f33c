package outbound_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/live"
	"ztunnel/proxy/outbound"
	"ztunnel/proxy/proxytest"
	"ztunnel/telemetry/connection"
)

// peer is a destination that does as it is told with the connections to it.
func (p *pod) peer(t *testing.T, serve func(*net.TCPConn)) {
	t.Helper()
	addr := proxytest.Application(t, waypointIP, serve)
	p.put(proxytest.Workload("waypoint", waypointIP), web(addr.Port()))
}

// serverTLS is the configuration of a server with an identity.
func (p *pod) serverTLS(t *testing.T, id string) *tls.Config {
	t.Helper()
	return p.ca.Workload(t, id).ServerConfig()
}

const waypointID = "spiffe://cluster.local/ns/default/sa/waypoint"

func TestFailure_TCP(t *testing.T) {
	p := newPod(t, nil)
	_ = proxytest.Ended(p.connect(t, closedPort(t, "127.0.0.30")))
	p.failed(t, connection.FlagConnect, "io error: Connection refused (os error 111)")
}

func TestFailure_HBONERefused(t *testing.T) {
	p := newPod(t, nil)
	p.put(proxytest.Workload("waypoint", waypointIP), web(closedPort(t, waypointIP).Port()))
	_ = proxytest.Ended(p.connect(t, at(80)))
	p.failed(t, connection.FlagConnect, "io error: Connection refused (os error 111)")
}

func TestFailure_NoTLS(t *testing.T) {
	for name, tc := range map[string]struct {
		serve func(*net.TCPConn)
		text  string
	}{
		"closed": {func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 4<<10)) }, "tls error: EOF"},
		"garbage": {func(c *net.TCPConn) {
			_, _ = c.Read(make([]byte, 4<<10))
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		}, "tls error: tls: first record does not look like a TLS handshake"},
		"reset": {func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 4<<10)); _ = c.SetLinger(0) }, "tls error: Connection reset by peer (os error 104)"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, nil)
			p.peer(t, tc.serve)
			_ = proxytest.Ended(p.connect(t, at(80)))
			p.failed(t, connection.FlagTLS, tc.text)
		})
	}
}

func TestFailure_SilentServer(t *testing.T) {
	p := newPod(t, func(p *pod, c *outbound.Config) {
		d := &outbound.Dialer{Certificates: p.certs, Sockets: c.Sockets, HBONE: &hbone.Config{HandshakeTimeout: 50 * time.Millisecond}}
		p.pool.Close()
		p.pool = hbone.NewPool(hbone.PoolConfig{Dial: d.Dial})
		c.Pool = p.pool
	})
	p.peer(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	_ = proxytest.Ended(p.connect(t, at(80)))
	p.failed(t, connection.FlagTLS, "tls error: timed out waiting for the TLS handshake")
}

func TestFailure_WrongIdentity(t *testing.T) {
	p := newPod(t, nil)
	server := p.serverTLS(t, "spiffe://cluster.local/ns/default/sa/imposter")
	p.peer(t, func(c *net.TCPConn) { _ = tls.Server(c, server).Handshake() })
	_ = proxytest.Ended(p.connect(t, at(80)))
	p.failed(t, connection.FlagTLS, "tls error: invalid peer certificate: Other(OtherError(identity verification error: "+
		"peer did not present the expected SAN ("+waypointID+"), got spiffe://cluster.local/ns/default/sa/imposter))")
}

// A peer that ends after TLS, without a word of HTTP/2, or in the middle of a request.
func TestFailure_NoHTTP2(t *testing.T) {
	p := newPod(t, nil)
	server := p.serverTLS(t, waypointID)
	p.peer(t, func(c *net.TCPConn) {
		conn := tls.Server(c, server)
		_ = conn.Handshake()
		_, _ = conn.Read(make([]byte, 1))
	})
	_ = proxytest.Ended(p.connect(t, at(80)))
	p.failed(t, connection.FlagH2, "h2 failed: ")
}

func TestFailure_Status(t *testing.T) {
	p := newPod(t, nil)
	p.waypoint(t)
	_ = proxytest.Ended(p.connect(t, closedPort(t, waypointIP)))
	p.failed(t, connection.FlagConnect, "io error: Connection refused (os error 111)") // passthrough: no workload is there
	p = newPod(t, nil)
	p.waypoint(t)
	_ = proxytest.Ended(p.connect(t, at(closedPort(t, waypointIP).Port())))
	p.failed(t, connection.FlagConnect, "http status: 503 Service Unavailable")
}

func TestFailure_NoCertificate(t *testing.T) {
	p := newPod(t, nil)
	p.waypoint(t)
	p.certs.Err = errors.New("the CA is out")
	_ = proxytest.Ended(p.connect(t, at(80)))
	p.failed(t, connection.FlagIdentity, "identity error: the CA is out")
}

func TestFailure_NetworkPolicy(t *testing.T) {
	err := outbound.NewNetworkPolicyError()
	const text = "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: deadline has elapsed"
	if got, flag := err.Error(), connection.FlagOf(err); got != text || flag != connection.FlagNetworkPolicy {
		t.Errorf("error = %q with flag %s, want %q with %s", got, flag, text, connection.FlagNetworkPolicy)
	}
}

// While a server stalls, the end of the application or of the pod ends the
// connection.
func TestPending(t *testing.T) {
	stalled := func(t *testing.T) (*pod, *net.TCPConn) {
		t.Helper()
		p := newPod(t, nil)
		p.peer(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
		// The application dials the target itself, as the kernel sees it when
		// it redirects.
		ln := proxytest.Listen(t, webIP)
		app := proxytest.Dial(t, clientIP, ln.Addr())
		p.proxy(t, ln, ln.Addr().(*net.TCPAddr).AddrPort())
		p.access.Wait(t, "DEBUG connection opened")
		return p, app
	}
	const gone = "the client closed the connection before its destination was reached"
	t.Run("drain", func(t *testing.T) {
		p, _ := stalled(t)
		p.cut(live.ErrDraining)
		p.served.Wait()
		p.failed(t, connection.FlagNone, "connection closed due to connection drain")
	})
	t.Run("application closes", func(t *testing.T) {
		p, app := stalled(t)
		_ = app.Close()
		p.failed(t, connection.FlagNone, gone)
	})
	t.Run("application resets", func(t *testing.T) {
		p, app := stalled(t)
		_, _ = io.WriteString(app, "a request that nobody will read")
		_ = app.SetLinger(0)
		_ = app.Close()
		p.failed(t, connection.FlagNone, gone)
	})
	t.Run("application waits for an answer", func(t *testing.T) {
		p, app := stalled(t)
		_ = app.CloseWrite()
		p.stays(t)
	})
	t.Run("application has left a message", func(t *testing.T) {
		p, app := stalled(t)
		_, _ = io.WriteString(app, "for whom it may concern")
		_ = app.Close()
		p.stays(t)
	})
}

// stays waits for several looks at the application and expects the connection
// to be open still.
func (p *pod) stays(t *testing.T) {
	t.Helper()
	timer := time.NewTimer(outbound.FirstLook + 3*outbound.NextLook/2)
	defer timer.Stop()
	<-timer.C
	if p.live.Len() != 1 {
		t.Errorf("the connection has ended; the log is\n%s", p.access)
	}
}
