package outbound_test

import (
	"testing"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/outbound"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

// revocations are those of a file, which the pod heeds.
type revocations struct {
	*identitytest.CRLFile
	pod   *pod
	below *identitytest.CA // the issuer of all certificates, below the root of the pod's CA
}

// heeding makes a pod that heeds revocations, of which there is no file yet.
func heeding(t *testing.T) *revocations {
	t.Helper()
	r := &revocations{CRLFile: identitytest.NewCRLFile(t)}
	r.pod = newPod(t, func(p *pod, c *outbound.Config) {
		p.ca.TLS.Revocation = r.CRL
		r.below = p.ca.Intermediate(t)
		p.certs.CA = r.below
		d := &outbound.Dialer{Certificates: p.certs, Sockets: c.Sockets, HBONE: &hbone.Config{HandshakeTimeout: proxytest.Patience}, Revocations: r.CRL}
		p.pool.Close()
		p.pool = hbone.NewPool(hbone.PoolConfig{Dial: d.Dial})
		c.Pool = p.pool
	})
	return r
}

// server is the certificate of the waypoint.
func (r *revocations) server(t *testing.T) *identity.Certificate {
	t.Helper()
	id, err := spiffe.Parse(waypointID)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.pod.certs.Certificate(t.Context(), id, identity.RealTime)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A server whose certificate was revoked, or that of its issuer, gets nothing.
func TestFailure_RevokedServer(t *testing.T) {
	for name, revoke := range map[string]func(t *testing.T, r *revocations){
		"itself":     func(t *testing.T, r *revocations) { r.Revoke(t, r.below, r.server(t).Leaf()) },
		"its issuer": func(t *testing.T, r *revocations) { r.Revoke(t, r.pod.ca, r.below.Issuer()) },
	} {
		t.Run(name, func(t *testing.T) {
			r := heeding(t)
			r.pod.waypoint(t)
			revoke(t, r)
			_ = proxytest.Ended(r.pod.connect(t, at(proxytest.Echo(t, waypointIP).Port())))
			r.pod.failed(t, connection.FlagTLS, "tls error: invalid peer certificate: Revoked")
		})
	}
}

// A connection ends when the certificate of its server is revoked.
func TestHBONE_RevokedMeanwhile(t *testing.T) {
	r := heeding(t)
	r.pod.waypoint(t)
	r.Revoke(t, r.below)
	r.Follow(t)
	app := r.pod.connect(t, at(proxytest.Echo(t, waypointIP).Port()))
	proxytest.Say(t, app, "before")
	r.Revoke(t, r.below, r.server(t).Leaf())
	_ = proxytest.Ended(app)
	r.pod.complete(t, "ERROR", "error=connection closed: peer certificate revoked by CRL")
	r.pod.failed(t, connection.FlagRevoked, "connection closed: peer certificate revoked by CRL")
}
