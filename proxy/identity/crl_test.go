package identity_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/metric"

	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/telemetry/connection"
)

// crlFile is a CRL with its file and its metrics.
type crlFile struct {
	*identity.CRL
	path   string
	reader *sdk.ManualReader
	log    *bytes.Buffer
}

// newCRL makes a CRL whose file has the given content; nil is no file.
func newCRL(t *testing.T, content []byte) *crlFile {
	t.Helper()
	f := &crlFile{path: filepath.Join(t.TempDir(), "ca-crl.pem"), reader: sdk.NewManualReader(), log: new(bytes.Buffer)}
	if content != nil {
		f.write(t, content)
	}
	f.CRL = identity.NewCRL(identity.CRLConfig{Path: f.path, Log: slog.New(slog.NewTextHandler(f.log, nil))})
	if err := f.Register(sdk.NewMeterProvider(sdk.WithReader(f.reader)).Meter("test")); err != nil {
		t.Fatal(err)
	}
	return f
}

// write replaces the file as the kubelet does.
func (f *crlFile) write(t testing.TB, content []byte) {
	t.Helper()
	next := f.path + ".next"
	if err := os.WriteFile(next, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, f.path); err != nil {
		t.Fatal(err)
	}
}

// metrics returns the series with a part in their text, but for those of 0.
func (f *crlFile) metrics(t *testing.T, part string) []string {
	t.Helper()
	return slices.DeleteFunc(collect(t, f.reader), func(s string) bool { return !strings.Contains(s, part) })
}

func (f *crlFile) wantMetrics(t *testing.T, part string, want ...string) {
	t.Helper()
	if got := f.metrics(t, part); !slices.Equal(got, want) {
		t.Errorf("metrics with %s = %q, want %q", part, got, want)
	}
}

// shake connects two workloads of which one or both check for revocation.
func shake(t testing.TB, client, server *identity.Certificate) outcome {
	t.Helper()
	return handshake(t, inMemory, whom(t, client), server.ServerConfig())
}

func checking(c *crlFile) *identity.TLSOptions { return &identity.TLSOptions{Revocation: c.CRL} }

// A revoked peer is refused by either side, whichever certificate below the root it is.
func TestCRL_Handshake(t *testing.T) {
	root := identitytest.NewCA(t)
	upper := root.Intermediate(t)
	lower := upper.Intermediate(t)
	client, server := lower.Workload(t, clientURI), lower.Workload(t, serverURI)
	stranger := lower.Workload(t, clientURI)
	foreign := identitytest.NewCA(t)
	both := []*x509.Certificate{client.Leaf(), server.Leaf()}
	for _, tt := range []struct {
		name    string
		crl     []byte
		revoked bool
	}{
		{"no lists", []byte{}, false},
		{"leaf", lower.CRL(t, both...), true},
		{"lower intermediate", upper.CRL(t, lower.Issuer()), true},
		{"upper intermediate", root.CRL(t, upper.Issuer()), true},
		{"root, which only itself could revoke", root.CRL(t, root.Root()), false},
		{"another leaf", lower.CRL(t, stranger.Leaf()), false},
		{"leaf in a list of somebody else", foreign.CRL(t, both...), false},
		{"leaf in a list of a higher issuer", root.CRL(t, both...), false},
		{"list of another key of the same name", lower.Twin(t).CRL(t, both...), false},
		{"list of another key of the same name first", slices.Concat(lower.Twin(t).CRL(t, both...), lower.CRL(t, both...)), true},
		{"list out of date", identitytest.CRLPEM(lower.List(t, &x509.RevocationList{
			ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: time.Now().Add(-time.Hour),
		}, both...)), true},
		{"among others", slices.Concat(foreign.CRL(t), root.CRL(t), lower.CRL(t, both...)), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			crl := newCRL(t, tt.crl)
			options := lower.Issue(t, identitytest.Leaf{URIs: []string{serverURI}, TLS: checking(crl)})
			o := shake(t, client, options) // the server checks
			if !tt.revoked {
				if o.serverErr != nil {
					t.Errorf("server: handshake = %v, want success", o.serverErr)
				}
			} else {
				if got := identity.RejectReason(o.serverErr); got != string(connection.ReasonRevokedCert) {
					t.Errorf("server: RejectReason(%v) = %s, want revoked_cert", o.serverErr, got)
				}
				if got, want := identity.HandshakeText(o.serverErr), "Custom { kind: InvalidData, error: InvalidCertificate(Revoked) }"; got != want {
					t.Errorf("server: HandshakeText() = %s, want %s", got, want)
				}
			}
			options = lower.Issue(t, identitytest.Leaf{URIs: []string{clientURI}, TLS: checking(crl)})
			o = shake(t, options, server) // the client checks
			if !tt.revoked && o.clientErr != nil {
				t.Errorf("client: handshake = %v, want success", o.clientErr)
			}
			if want := "invalid peer certificate: Revoked"; tt.revoked && (o.clientErr == nil || o.clientErr.Error() != want) {
				t.Errorf("client: handshake = %v, want %s", o.clientErr, want)
			}
			if tt.revoked {
				crl.wantMetrics(t, "rejections", "istio_crl_policy_rejections_total{reporter=destination} 1", "istio_crl_policy_rejections_total{reporter=source} 1")
			} else {
				crl.wantMetrics(t, "rejections")
			}
		})
	}
}

// When a root is replaced by one of the same name, each has its own lists, and nobody is refused for the other's.
func TestCRL_RootsOfOneName(t *testing.T) {
	before := identitytest.NewCA(t)
	after := before.Twin(t)
	roots := []*x509.Certificate{before.Root(), after.Root()}
	gone, stays := before.Workload(t, clientURI), after.Workload(t, clientURI)
	crl := newCRL(t, slices.Concat(after.CRL(t), before.CRL(t, gone.Leaf())))
	server := after.Issue(t, identitytest.Leaf{URIs: []string{serverURI}, Roots: roots, TLS: checking(crl)})
	trusting := func(c *identity.Certificate) *identity.Certificate {
		t.Helper()
		issuer := before
		if c == stays {
			issuer = after
		}
		return issuer.Issue(t, identitytest.Leaf{URIs: []string{clientURI}, Roots: roots})
	}
	for name, c := range map[string]*identity.Certificate{"old root": trusting(gone), "new root": trusting(stays)} {
		if o := shake(t, c, server); o.serverErr != nil {
			t.Errorf("client of the %s: handshake = %v, want success", name, o.serverErr)
		}
	}
	// The revoked one itself trusts the old root alone, so the server has to refuse it before it can.
	server = before.Issue(t, identitytest.Leaf{URIs: []string{serverURI}, Roots: roots, TLS: checking(crl)})
	if o := shake(t, gone, server); identity.RejectReason(o.serverErr) != string(connection.ReasonRevokedCert) {
		t.Errorf("revoked client: handshake = %v, want it refused", o.serverErr)
	}
}

// A peer with two chains of which one is good is good.
func TestCRL_OneGoodChain(t *testing.T) {
	root, upper := identitytest.NewCA(t), identitytest.NewCA(t)
	// The issuing key has two certificates: one of each CA.
	issuing := root.Intermediate(t)
	crossed := issuing.CrossSign(t, upper)
	leaf := issuing.Workload(t, clientURI)
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf.Leaf(), issuing.Issuer(), crossed}}
	own := root.Issue(t, identitytest.Leaf{URIs: []string{serverURI}, Roots: []*x509.Certificate{root.Root(), upper.Root()}})
	for _, tt := range []struct {
		name string
		crl  []byte
		want bool
	}{
		{"one of two chains", root.CRL(t, issuing.Issuer()), false},
		{"the other one", upper.CRL(t, crossed), false},
		{"both", slices.Concat(root.CRL(t, issuing.Issuer()), upper.CRL(t, crossed)), true},
		{"the leaf", issuing.CRL(t, leaf.Leaf()), true},
	} {
		crl := newCRL(t, tt.crl)
		called := false
		stop := crl.Track(identity.Tunnel{State: state, Own: own}, func() { called = true })
		stop()
		if called != tt.want {
			t.Errorf("%s revoked: revoked = %v, want %v", tt.name, called, tt.want)
		}
	}
}

// A file that comes later is used from the first handshake on, one that is broken from when it is mended; the metrics and
// the log tell.
func TestCRL_FileComesLater(t *testing.T) {
	ca := identitytest.NewCA(t)
	client := ca.Workload(t, clientURI)
	crl := newCRL(t, nil)
	server := ca.Issue(t, identitytest.Leaf{URIs: []string{serverURI}, TLS: checking(crl)})
	try := func(revoked bool) {
		t.Helper()
		if o := shake(t, client, server); (o.serverErr != nil) != revoked {
			t.Errorf("handshake = %v, want revoked: %v", o.serverErr, revoked)
		}
	}
	try(false)
	try(false)
	crl.wantMetrics(t, "crl_state", "istio_ztunnel_crl_state{state=missing} 1")
	if got := strings.Count(crl.log.String(), "crl file not found, will retry on first validation"); got != 1 {
		t.Errorf("the log says %d times that there is no file, want once:\n%s", got, crl.log)
	}
	crl.write(t, []byte("garbage"))
	try(false)
	crl.wantMetrics(t, "crl_state", "istio_ztunnel_crl_state{state=invalid} 1")
	crl.wantMetrics(t, "crl_loads", "istio_ztunnel_crl_loads_total{result=error} 1")
	if !strings.Contains(crl.log.String(), "level=ERROR") {
		t.Errorf("nothing at level error in the log:\n%s", crl.log)
	}
	crl.write(t, ca.CRL(t, client.Leaf()))
	try(true)
	crl.wantMetrics(t, "crl_state", "istio_ztunnel_crl_state{state=loaded} 1")
	crl.wantMetrics(t, "crl_revoked", "istio_ztunnel_crl_revoked_certificates{} 1")
	crl.wantMetrics(t, "crl_next", "istio_ztunnel_crl_next_update_timestamp_seconds{} 4102444800") // as long as the CA
}

// What says that a list means something else than it seems to is not passed over.
func TestCRL_UnsupportedLists(t *testing.T) {
	ca := identitytest.NewCA(t)
	client := ca.Workload(t, clientURI)
	extension := func(critical bool, value []byte, id ...int) []byte {
		return identitytest.CRLPEM(ca.List(t, &x509.RevocationList{
			ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier(id), Critical: critical, Value: value}},
		}, client.Leaf()))
	}
	for _, tt := range []struct {
		name, want string
		crl        []byte
	}{
		{"delta", "delta lists", extension(true, []byte{2, 1, 1}, 2, 5, 29, 27)},
		{"indirect", "indirect lists", extension(true, []byte{0x30, 3, 0x84, 1, 0xff}, 2, 5, 29, 28)},
		{"unknown and critical", "2.5.29.99", extension(true, []byte{5, 0}, 2, 5, 29, 99)},
		{"unknown", "", extension(false, []byte{5, 0}, 2, 5, 29, 99)},
		{"for user certificates", "", extension(true, []byte{0x30, 3, 0x81, 1, 0xff}, 2, 5, 29, 28)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			crl := newCRL(t, tt.crl)
			o := shake(t, client, ca.Issue(t, identitytest.Leaf{URIs: []string{serverURI}, TLS: checking(crl)}))
			if refused := o.serverErr != nil; refused != (tt.want == "") {
				t.Errorf("handshake = %v, want it refused: %v", o.serverErr, tt.want == "")
			}
			if !strings.Contains(crl.log.String(), tt.want) {
				t.Errorf("the log does not name %s:\n%s", tt.want, crl.log)
			}
		})
	}
}

// The file is followed: replaced, broken, gone, back. What was in force stays in force meanwhile.
func TestCRL_Run(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.NewCA(t)
		one, two := ca.Workload(t, clientURI), ca.Workload(t, clientURI)
		crl := newCRL(t, ca.CRL(t))
		start(t, crl.Run)
		server := ca.Issue(t, identitytest.Leaf{URIs: []string{serverURI}, TLS: checking(crl)})
		step := func(what string, state string, oneRevoked, twoRevoked bool) {
			t.Helper()
			time.Sleep(3 * time.Second)
			synctest.Wait()
			for i, c := range []struct {
				client  *identity.Certificate
				revoked bool
			}{{one, oneRevoked}, {two, twoRevoked}} {
				if o := shake(t, c.client, server); (o.serverErr != nil) != c.revoked {
					t.Errorf("%s: handshake of client %d = %v, want revoked: %v", what, i+1, o.serverErr, c.revoked)
				}
			}
			crl.wantMetrics(t, "crl_state", "istio_ztunnel_crl_state{state="+state+"} 1")
		}
		step("at start", "loaded", false, false)
		crl.write(t, ca.CRL(t, one.Leaf()))
		step("one revoked", "loaded", true, false)
		same, err := os.ReadFile(crl.path)
		if err != nil {
			t.Fatal(err)
		}
		crl.write(t, same)
		step("replaced by itself", "loaded", true, false)
		crl.write(t, ca.CRL(t, two.Leaf())[:100])
		step("broken", "invalid", true, false)
		crl.write(t, ca.CRL(t, two.Leaf()))
		step("mended", "loaded", false, true)
		if err := os.Remove(crl.path); err != nil {
			t.Fatal(err)
		}
		step("removed", "missing", false, true)
		crl.write(t, []byte{})
		step("empty", "loaded", false, false)
		if err := os.Truncate(crl.path, 16<<20+1); err != nil {
			t.Fatal(err)
		}
		step("too large", "invalid", false, false)
		crl.wantMetrics(t, "crl_loads", "istio_ztunnel_crl_loads_total{result=error} 3", "istio_ztunnel_crl_loads_total{result=success} 4")
	})
}

// A nil CRL can be used everywhere.
func TestCRL_Nil(t *testing.T) {
	var crl *identity.CRL
	if err := crl.Run(t.Context()); err != nil {
		t.Errorf("Run() = %v", err)
	}
	if err := crl.Register(nil); err != nil {
		t.Errorf("Register() = %v", err)
	}
	crl.Track(identity.Tunnel{}, func() { t.Error("revoked was called") })()
	ca := identitytest.NewCA(t)
	if o := shake(t, ca.Workload(t, clientURI), ca.Workload(t, serverURI)); o.clientErr != nil {
		t.Errorf("handshake = %v", o.clientErr)
	}
}
