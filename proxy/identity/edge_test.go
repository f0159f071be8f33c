package identity_test

import (
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/telemetry/connection"
)

// The second workload of an identity makes no request, whether the first one's is made, runs or waits, and what is forgotten
// leaves nothing.
func TestManager_PrefetchedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, time.Second, time.Hour)
		m := run(t, ca, identity.Config{Concurrency: 1})
		prefetch := func(name string) {
			t.Helper()
			if err := m.Prefetch(account(name)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		prefetch("a") // runs
		prefetch("a")
		prefetch("b") // waits
		prefetch("b")
		time.Sleep(3 * time.Second)
		prefetch("a") // is made
		want(t, m, "a", identity.RealTime)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := ca.order(); got != "a b" {
			t.Errorf("requests = %s, want a b", got)
		}
		m.Forget(account("a"))
		if got := m.Dump(); len(got) != 1 || got[0].Identity != account("b").String() {
			t.Errorf("Dump() after a was forgotten = %v, want b alone", got)
		}
		m.Forget(account("b"))
		if got := m.Dump(); len(got) != 0 {
			t.Errorf("Dump() after both were forgotten = %v, want nothing", got)
		}
		want(t, m, "a", identity.RealTime)
		if got := ca.order(); got != "a" {
			t.Errorf("requests = %s, want a new one for a", got)
		}
	})
}

// A certificate that is not valid yet, of a CA with another clock, is neither expired nor asked for again at once, which would
// give the same: it is renewed at half of its life like any other.
func TestCertificate_NotValidYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		c := identitytest.NewCA(t).Issue(t, identitytest.Leaf{NotBefore: now.Add(time.Hour), NotAfter: now.Add(3 * time.Hour)})
		if c.Expired(now) {
			t.Error("Expired() = true, want false")
		}
		if got := c.RenewAt().Sub(now); got != 2*time.Hour {
			t.Errorf("RenewAt() is in %v, want 2h", got)
		}
	})
}

// The chain as istiod gives it, leaf first and root last, is told apart into what is presented and what is trusted.
func TestParseChain_PresentedAndTrusted(t *testing.T) {
	key, leaf, intermediate, root := answer(t, account("a"))
	c, err := identity.ParseChain(account("a"), key, []string{leaf, intermediate, root}, identity.TLSOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(c.ServerConfig().Certificates[0].Certificate); got != 2 {
		t.Errorf("%d certificates are presented, want the leaf and the intermediate", got)
	}
	if roots := c.Roots(); len(roots) != 1 || identitytest.PEM(roots[0]) != root {
		t.Errorf("%d certificates are trusted, want the root alone", len(roots))
	}
}

// What the file holds is taken however it is written; without lists everybody is let in.
func TestCRL_FormsOfTheFile(t *testing.T) {
	ca := identitytest.NewCA(t)
	client := ca.Workload(t, clientURI)
	der := ca.List(t, new(x509.RevocationList), client.Leaf())
	for name, tt := range map[string]struct {
		content []byte
		revoked bool
		state   string
	}{
		"none": {nil, false, "missing"}, "empty": {[]byte{}, false, "loaded"}, "garbage": {[]byte("garbage"), false, "invalid"},
		"PEM": {identitytest.CRLPEM(der), true, "loaded"}, "DER": {der, true, "loaded"},
	} {
		t.Run(name, func(t *testing.T) {
			crl := newCRL(t, tt.content)
			o := shake(t, client, ca.Issue(t, identitytest.Leaf{URIs: []string{serverURI}, TLS: checking(crl)}))
			if (o.serverErr != nil) != tt.revoked {
				t.Errorf("handshake = %v, want revoked: %t", o.serverErr, tt.revoked)
			}
			crl.wantMetrics(t, "crl_state", "istio_ztunnel_crl_state{state="+tt.state+"} 1")
			if tt.revoked {
				crl.wantMetrics(t, "crl_revoked", "istio_ztunnel_crl_revoked_certificates{} 1")
			}
		})
	}
}

// Of two tunnels to one peer either can end without the other, and nothing is left of both.
func TestTrack_TwoOfOnePeer(t *testing.T) {
	below := identitytest.NewCA(t).Intermediate(t)
	peer, own := below.Workload(t, clientURI), below.Workload(t, serverURI)
	crl := newCRL(t, []byte{})
	one := open(t, crl, "one", own, peer, connection.Destination)
	two := open(t, crl, "two", own, peer, connection.Destination)
	for _, step := range []struct {
		stop func()
		left []string
	}{
		{func() {}, []string{"istio_ztunnel_crl_tracked_connections{reporter=destination} 2"}},
		{one.stop, []string{"istio_ztunnel_crl_tracked_connections{reporter=destination} 1"}},
		{one.stop, []string{"istio_ztunnel_crl_tracked_connections{reporter=destination} 1"}}, // again
		{two.stop, nil},
	} {
		step.stop()
		crl.wantMetrics(t, "tracked_connections{", step.left...)
	}
	wantRevoked(t, false, one, two)
}
