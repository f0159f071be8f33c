package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/telemetry/connection"
)

// start runs something to the end of the test, which waits for it.
func start(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := run(ctx); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
}

// watched is a tunnel that is tracked.
type watched struct {
	name    string
	revoked atomic.Int32
	stop    func()
}

// open makes a tunnel to a peer and tracks it. Its leaf is presented first, then whatever else is given.
func open(t *testing.T, crl *crlFile, name string, own, peer *identity.Certificate, by connection.Reporter, junk ...*x509.Certificate) *watched {
	t.Helper()
	state := &tls.ConnectionState{PeerCertificates: slices.Concat([]*x509.Certificate{peer.Leaf()}, junk, peer.Intermediates())}
	w := &watched{name: name}
	w.stop = crl.Track(identity.Tunnel{State: state, Own: own, Reporter: by, Handshake: time.Now()}, func() { w.revoked.Add(1) })
	t.Cleanup(w.stop)
	return w
}

func wantRevoked(t *testing.T, want bool, list ...*watched) {
	t.Helper()
	for _, w := range list {
		if got := w.revoked.Load(); (got == 1) != want || got > 1 {
			t.Errorf("%s: revoked was called %d times, want %v", w.name, got, want)
		}
	}
}

// Lists that come later end the tunnels of those that they revoke, of either side, and no others.
func TestTrack(t *testing.T) {
	root := identitytest.NewCA(t)
	upper := root.Intermediate(t)
	lower := upper.Intermediate(t)
	twin := upper.Twin(t)
	long := identitytest.Leaf{ // also in a bubble
		URIs: []string{clientURI}, NotBefore: time.Date(1995, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	direct := root.Issue(t, long)
	below, beside := lower.Issue(t, long), lower.Issue(t, long)
	twins := twin.Issue(t, long)
	own := root.Workload(t, serverURI)
	for _, tt := range []struct {
		name  string
		crl   []byte
		ended []string
	}{
		{"nothing", root.CRL(t), nil},
		{"leaf below the root", root.CRL(t, direct.Leaf()), []string{"direct"}},
		{"leaf", lower.CRL(t, below.Leaf()), []string{"below", "junk", "server"}},
		{"issuing intermediate", upper.CRL(t, lower.Issuer()), []string{"below", "beside", "junk", "server"}},
		{"upper intermediate", root.CRL(t, upper.Issuer()), []string{"below", "beside", "junk", "server"}},
		{"its twin", root.CRL(t, twin.Issuer()), []string{"twins"}},
		{"all leaves in the list of the wrong issuer", upper.CRL(t, below.Leaf(), beside.Leaf(), direct.Leaf()), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				crl := newCRL(t, []byte{})
				start(t, crl.Run)
				list := []*watched{
					open(t, crl, "direct", own, direct, connection.Destination),
					open(t, crl, "below", own, below, connection.Destination),
					open(t, crl, "beside", own, beside, connection.Destination),
					open(t, crl, "twins", own, twins, connection.Destination),
					open(t, crl, "junk", own, below, connection.Destination, identitytest.NewCA(t).Root(), twin.Issuer()),
					open(t, crl, "server", own, below, connection.Source),
				}
				closed := open(t, crl, "closed", own, below, connection.Source)
				closed.stop()
				synctest.Wait()
				wantRevoked(t, false, list...)
				crl.write(t, tt.crl)
				time.Sleep(3 * time.Second)
				synctest.Wait()
				var source, destination int
				for _, w := range list {
					ended := slices.Contains(tt.ended, w.name)
					wantRevoked(t, ended, w)
					switch {
					case ended && w.name == "server":
						source++
					case ended:
						destination++
					}
				}
				wantRevoked(t, false, closed)
				if got := total(t, crl, "rejections"); got != source+destination {
					t.Errorf("rejections = %d, want %d: one for each tunnel", got, source+destination)
				}
				if got, want := total(t, crl, "tracked_connections{"), len(list)-source-destination; got != want {
					t.Errorf("tracked connections = %d, want %d", got, want)
				}
				crl.wantMetrics(t, "untracked")
			})
		})
	}
}

// total adds up the series of a metric of the CRL.
func total(t *testing.T, crl *crlFile, part string) int {
	t.Helper()
	var sum int
	for _, s := range crl.metrics(t, part) {
		sum += value(t, s)
	}
	return sum
}

// One that is revoked already is told so before Track returns.
func TestTrack_AlreadyRevoked(t *testing.T) {
	ca := identitytest.NewCA(t)
	peer, own := ca.Workload(t, clientURI), ca.Workload(t, serverURI)
	crl := newCRL(t, ca.CRL(t, peer.Leaf()))
	wantRevoked(t, true, open(t, crl, "revoked", own, peer, connection.Destination))
	wantRevoked(t, false, open(t, crl, "another", own, ca.Workload(t, clientURI), connection.Destination))
	crl.wantMetrics(t, "rejections", "istio_crl_policy_rejections_total{reporter=destination} 1")
	crl.wantMetrics(t, "tracked_connections{", "istio_ztunnel_crl_tracked_connections{reporter=destination} 1")
}

// A certificate that expired after the handshake is still found to be revoked; it is judged as of then.
func TestTrack_Expired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.NewCA(t)
		own := ca.Workload(t, serverURI)
		peer := ca.Issue(t, identitytest.Leaf{URIs: []string{clientURI}, NotAfter: time.Now().Add(time.Minute)})
		crl := newCRL(t, []byte{})
		start(t, crl.Run)
		before := open(t, crl, "before", own, peer, connection.Source)
		at := time.Now()
		time.Sleep(time.Hour)
		state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{peer.Leaf()}}
		late := &watched{name: "late"}
		late.stop = crl.Track(identity.Tunnel{State: state, Own: own, Handshake: at}, func() { late.revoked.Add(1) })
		now := &watched{name: "now"}
		now.stop = crl.Track(identity.Tunnel{State: state, Own: own}, func() { now.revoked.Add(1) })
		crl.write(t, ca.CRL(t, peer.Leaf()))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		wantRevoked(t, true, before, late)
		wantRevoked(t, false, now)
		crl.wantMetrics(t, "untracked", "istio_crl_untracked_connections_total{reporter=source} 1")
		late.stop()
		now.stop()
	})
}

func TestTrack_Untracked(t *testing.T) {
	ca, foreign := identitytest.NewCA(t), identitytest.NewCA(t)
	own, peer := ca.Workload(t, serverURI), foreign.Workload(t, clientURI)
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{peer.Leaf()}}
	crl := newCRL(t, foreign.CRL(t, peer.Leaf()))
	for _, tunnel := range []identity.Tunnel{
		{Own: own}, {State: new(tls.ConnectionState), Own: own}, {State: state}, {State: state, Own: own},
	} {
		tunnel.Reporter = connection.Destination
		crl.Track(tunnel, func() { t.Errorf("revoked was called for %+v", tunnel) })()
	}
	crl.wantMetrics(t, "untracked", "istio_crl_untracked_connections_total{reporter=destination} 4")
}

// After stop no call begins, even if the lists that revoke the peer are in force already.
func TestTrack_Stop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.NewCA(t)
		peer, own := ca.Workload(t, clientURI), ca.Workload(t, serverURI)
		crl := newCRL(t, []byte{})
		start(t, crl.Run)
		state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{peer.Leaf()}}
		var calls int
		var stops [2]func()
		for i := range stops {
			stops[i] = crl.Track(identity.Tunnel{State: state, Own: own}, func() { calls++; stops[1-i]() })
		}
		synctest.Wait()
		crl.write(t, ca.CRL(t, peer.Leaf()))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if calls != 1 {
			t.Errorf("calls = %d, want 1: the first one stopped the other", calls)
		}
		crl.wantMetrics(t, "rejections", "istio_crl_policy_rejections_total{reporter=source} 1")
		crl.wantMetrics(t, "tracked_connections{")
	})
}

// Tunnels that open while lists change are never missed: each is told exactly once, whoever sees it first.
func TestTrack_Race(t *testing.T) {
	ca := identitytest.NewCA(t)
	peer, own := ca.Workload(t, clientURI), ca.Workload(t, serverURI)
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{peer.Leaf()}, VerifiedChains: [][]*x509.Certificate{{peer.Leaf(), ca.Root()}}}
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			crl := newCRL(t, []byte{})
			start(t, crl.Run)
			synctest.Wait()
			crl.write(t, ca.CRL(t, peer.Leaf()))
			time.Sleep(time.Second) // the next look takes the file over
			var list [50]watched
			var opening sync.WaitGroup
			for i := range list {
				opening.Go(func() {
					time.Sleep(time.Second)
					list[i].stop = crl.Track(identity.Tunnel{State: state, Own: own}, func() { list[i].revoked.Add(1) })
				})
			}
			opening.Wait()
			time.Sleep(3 * time.Second)
			synctest.Wait()
			for i := range list {
				if got := list[i].revoked.Load(); got != 1 {
					t.Fatalf("revoked was called %d times for tunnel %d, want once", got, i)
				}
				list[i].stop()
			}
		})
	}
}
