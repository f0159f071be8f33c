package identitytest

import (
	"context"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ztunnel/proxy/identity"
)

// followEvery is how often a CRLFile looks for a change.
const followEvery = 5 * time.Millisecond

// CRLFile is a file of revocation lists of a test, and the revocations that it makes.
type CRLFile struct {
	*identity.CRL
	path string
}

// NewCRLFile makes the revocations of a file that is not there yet. The first that Revoke writes is read by whoever checks
// a certificate; later ones are read only after Follow.
func NewCRLFile(tb testing.TB) *CRLFile {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "ca-crl.pem")
	return &CRLFile{
		CRL:  identity.NewCRL(identity.CRLConfig{Path: path, Interval: followEvery, Log: slog.New(slog.DiscardHandler)}),
		path: path,
	}
}

// Follow follows the file until the test ends.
func (f *CRLFile) Follow(tb testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = f.Run(ctx) }) // it ends with its context only
	tb.Cleanup(func() { cancel(); running.Wait() })
}

// Revoke writes the file: a list of the CA's issuing certificate, with these certificates and no others in it.
func (f *CRLFile) Revoke(tb testing.TB, by *CA, certificates ...*x509.Certificate) {
	tb.Helper()
	next := f.path + ".next"
	if err := os.WriteFile(next, by.CRL(tb, certificates...), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(next, f.path); err != nil {
		tb.Fatal(err)
	}
}
