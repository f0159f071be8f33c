package inbound_test

import (
	"context"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/inbound"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

// revocations are those of a file, which the pod heeds.
type revocations struct {
	*identity.CRL
	pod  *pod
	path string
}

// heeding makes a pod that heeds revocations, of which there is no file yet.
func heeding(t *testing.T) *revocations {
	t.Helper()
	r := &revocations{path: filepath.Join(t.TempDir(), "ca-crl.pem")}
	r.CRL = identity.NewCRL(identity.CRLConfig{Path: r.path, Interval: 5 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	r.pod = newPod(t, func(p *pod, c *inbound.Config) {
		p.ca.TLS.Revocation = r.CRL
		c.Revocations = r.CRL
	})
	return r
}

// follow follows the file until the test ends.
func (r *revocations) follow(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
}

// revoke makes these the revoked ones.
func (r *revocations) revoke(t *testing.T, leaves ...*x509.Certificate) {
	t.Helper()
	next := r.path + ".next"
	if err := os.WriteFile(next, r.pod.ca.CRL(t, leaves...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, r.path); err != nil {
		t.Fatal(err)
	}
}

// tunnelAs opens a tunnel with a certificate. The error may be that of the first stream.
func (r *revocations) tunnelAs(t *testing.T, c *identity.Certificate) (*hbone.ClientConn, *hbone.Stream, error) {
	t.Helper()
	app := proxytest.Echo(t, podIP)
	conn, err := hbone.Client(t.Context(), proxytest.Dial(t, clientIP, r.pod.hboneAddr()), c.ClientConfig([]spiffe.ID{r.pod.web.Identity()}), nil)
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { conn.Abort(nil); <-conn.Done() })
	s, err := conn.Open(t.Context(), &hbone.Request{Method: "CONNECT", Authority: app.String()})
	if err != nil {
		return conn, nil, err
	}
	t.Cleanup(func() { _ = s.Close() })
	return conn, s, nil
}

// A client whose certificate was revoked gets no tunnel.
func TestTunnel_RevokedClient(t *testing.T) {
	r := heeding(t)
	client := r.pod.ca.Workload(t, clientID)
	r.revoke(t, client.Leaf())
	if _, _, err := r.tunnelAs(t, client); err == nil {
		t.Error("a revoked client has a stream")
	}
	contains(t, r.pod.access.Wait(t, "WARN connection failed"), "error=tls handshake error: ", "Revoked")
	r.pod.rejected(t, connection.ReasonRevokedCert, nil)
}

// A tunnel ends when its client's certificate is revoked, with all that goes through it; that of another client goes on.
func TestTunnel_RevokedMeanwhile(t *testing.T) {
	r := heeding(t)
	r.revoke(t)
	r.follow(t)
	client, other := r.pod.ca.Workload(t, clientID), r.pod.ca.Workload(t, otherID)
	tunnel, s, err := r.tunnelAs(t, client)
	if err != nil {
		t.Fatal(err)
	}
	_, stays, err := r.tunnelAs(t, other)
	if err != nil {
		t.Fatal(err)
	}
	proxytest.Say(t, s, "before")
	proxytest.Say(t, stays, "before")
	r.revoke(t, client.Leaf())
	_ = proxytest.Ended(s)
	contains(t, r.pod.access.Wait(t, "ERROR connection complete"), "src.identity="+clientID, "error=connection closed: peer certificate revoked by CRL")
	<-tunnel.Done()
	failedWith(t, r.pod, string(connection.FlagRevoked))
	proxytest.Say(t, stays, "after")
	finish(t, stays)
}
