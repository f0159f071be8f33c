package inbound_test

import (
	"testing"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/inbound"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

// revocations are those of a file, which the pod heeds.
type revocations struct {
	*identitytest.CRLFile
	pod *pod
}

// heeding makes a pod that heeds revocations, of which there is no file yet.
func heeding(t *testing.T) *revocations {
	t.Helper()
	r := &revocations{CRLFile: identitytest.NewCRLFile(t)}
	r.pod = newPod(t, func(p *pod, c *inbound.Config) {
		p.ca.TLS.Revocation = r.CRL
		c.Revocations = r.CRL
	})
	return r
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
	r.Revoke(t, r.pod.ca, client.Leaf())
	if _, _, err := r.tunnelAs(t, client); err == nil {
		t.Error("a revoked client has a stream")
	}
	contains(t, r.pod.access.Wait(t, "WARN connection failed"), "error=tls handshake error: ", "Revoked")
	r.pod.rejected(t, connection.ReasonRevokedCert, nil)
}

// A tunnel ends when its client's certificate is revoked, with all that goes through it; that of another client goes on.
func TestTunnel_RevokedMeanwhile(t *testing.T) {
	r := heeding(t)
	r.Revoke(t, r.pod.ca)
	r.Follow(t)
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
	r.Revoke(t, r.pod.ca, client.Leaf())
	_ = proxytest.Ended(s)
	contains(t, r.pod.access.Wait(t, "ERROR connection complete"), "src.identity="+clientID, "error=connection closed: peer certificate revoked by CRL")
	<-tunnel.Done()
	failedWith(t, r.pod, string(connection.FlagRevoked))
	proxytest.Say(t, stays, "after")
	finish(t, stays)
}
