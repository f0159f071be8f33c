package outbound_test

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"ztunnel/proxy/proxytest"
)

// A server of another trust domain refuses the client, after the client's part of the handshake. The application, whose bytes
// nobody will read, sees a reset.
func TestFailure_ClientOfAnotherTrustDomain(t *testing.T) {
	p := newPod(t, nil)
	client := proxytest.Workload("client", clientIP)
	client.TrustDomain = "clusterset.local"
	p.put(client)
	_, access := p.waypoint(t)
	ln := proxytest.Listen(t, "127.0.0.1")
	app := proxytest.Dial(t, clientIP, ln.Addr())
	if _, err := io.WriteString(app, "hello world!"); err != nil {
		t.Fatal(err)
	}
	p.proxy(t, ln, at(proxytest.Echo(t, waypointIP).Port()))
	_ = app.SetReadDeadline(time.Now().Add(proxytest.Patience))
	if n, err := app.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the application reads %d bytes, %v, want a reset", n, err)
	}
	access.Wait(t, "WARN connection failed", "error=tls handshake error: ", "SanTrustDomainError")
	p.complete(t, "ERROR", "error=h2 failed: ")
}
