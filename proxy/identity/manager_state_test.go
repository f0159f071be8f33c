package identity_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/spiffe"
)

func TestManager_Stop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, time.Second, time.Hour)
		m := identity.NewManager(ca, identity.Config{Concurrency: 1})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		held := want(t, m, "held", identity.RealTime)
		waiting := make(chan error)
		go func() {
			_, err := m.Certificate(t.Context(), account("flying"), identity.RealTime)
			waiting <- err
		}()
		synctest.Wait()
		start := time.Now()
		cancel()
		if err := <-waiting; !errors.Is(err, identity.ErrStopped) {
			t.Errorf("Certificate() of a waiter = %v, want %v", err, identity.ErrStopped)
		}
		if err := <-ended; err != nil || time.Since(start) != 0 {
			t.Errorf("Run() = %v after %v, want nil at once", err, time.Since(start))
		}
		if got := want(t, m, "held", identity.RealTime); got != held {
			t.Error("Certificate() of one that is held is another one, want it")
		}
		if _, err := m.Certificate(t.Context(), account("new"), identity.RealTime); !errors.Is(err, identity.ErrStopped) {
			t.Errorf("Certificate() of a new one = %v, want %v", err, identity.ErrStopped)
		}
		if err := m.Prefetch(account("new")); !errors.Is(err, identity.ErrStopped) {
			t.Errorf("Prefetch() = %v, want %v", err, identity.ErrStopped)
		}
	})
}

// Renewals of certificates that came at the same time are spread: a little before half of the life, never after it.
func TestManager_Spread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, 0, 24*time.Hour)
		m := identity.NewManager(ca, identity.Config{})
		runRegistered(t, m)
		const n = 50
		for i := range n {
			want(t, m, fmt.Sprint(i), identity.RealTime)
		}
		ca.called()
		time.Sleep(12*time.Hour - 36*time.Minute) // 5 % of the half
		synctest.Wait()
		if got := ca.called(); len(got) > 0 {
			t.Errorf("renewals before 95 %% of the half = %v, want none", got)
		}
		time.Sleep(18 * time.Minute)
		synctest.Wait()
		first := len(ca.called())
		time.Sleep(18 * time.Minute)
		synctest.Wait()
		if rest := len(ca.called()); first == 0 || rest == 0 || first+rest != n {
			t.Errorf("renewals = %d, then %d until half of the life; want some, then some, %d together", first, rest, n)
		}
	})
}

func TestManager_Limit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := run(t, newScriptedCA(t, 0, time.Hour), identity.Config{MaxIdentities: 2})
		want(t, m, "a", identity.RealTime)
		want(t, m, "b", identity.RealTime)
		if _, err := m.Certificate(t.Context(), account("c"), identity.RealTime); !errors.Is(err, identity.ErrTooMany) {
			t.Errorf("Certificate() of a third = %v, want %v", err, identity.ErrTooMany)
		}
		m.Forget(account("a"))
		want(t, m, "c", identity.RealTime)
	})
}

func TestManager_ManyIdentities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := run(t, newScriptedCA(t, time.Millisecond, time.Hour), identity.Config{})
		var asking sync.WaitGroup
		for i := range 100 {
			for range 8 {
				asking.Go(func() { want(t, m, fmt.Sprint(i), identity.RealTime) })
			}
		}
		asking.Wait()
		if got := len(m.Dump()); got != 100 {
			t.Errorf("identities held = %d, want 100", got)
		}
	})
}

// badCA answers with neither a certificate nor an error.
type badCA struct{}

func (badCA) Sign(context.Context, spiffe.ID) (*identity.Certificate, error) { return nil, nil }

func TestManager_NoCertificate(t *testing.T) {
	m := run(t, badCA{}, identity.Config{})
	_, err := m.Certificate(t.Context(), account("a"), identity.RealTime)
	if want := "chain returned from CA is empty for: " + account("a").String(); err == nil || err.Error() != want {
		t.Errorf("Certificate() = %v, want %s", err, want)
	}
}

func TestNewManager_NegativeConcurrency(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("NewManager with a negative concurrency returned, want a panic")
		}
	}()
	identity.NewManager(badCA{}, identity.Config{Concurrency: -1})
}

func TestManager_Dump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := identitytest.NewCA(t)
		ca := &scriptedCA{ca: root.Intermediate(t), start: time.Now()}
		m := run(t, ca, identity.Config{})
		b := want(t, m, "b", identity.RealTime)
		ca.fail(identity.ErrForgotten)
		m.Certificate(t.Context(), account("a"), identity.RealTime)
		ca.latency = time.Second
		if err := m.Prefetch(account("c")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		issuer := b.Intermediates()[0]
		ca1990, ca2100 := "1990-01-01T00:00:00Z", "2100-01-01T00:00:00Z"
		none := []identity.DumpCertificate{}
		want := []identity.DumpEntry{
			{Identity: account("a").String(), State: "Unavailable: the identity is no longer needed", CertChain: none, RootCerts: none},
			{
				Identity: account("b").String(), State: "Available",
				CertChain: []identity.DumpCertificate{
					{PEM: []byte(identitytest.PEM(b.Leaf())), SerialNumber: b.Serial().Text(10), ValidFrom: "2000-01-01T00:00:00Z", ExpirationTime: "2000-01-02T00:00:00Z"},
					{PEM: []byte(identitytest.PEM(issuer)), SerialNumber: issuer.SerialNumber.Text(10), ValidFrom: ca1990, ExpirationTime: ca2100},
				},
				RootCerts: []identity.DumpCertificate{
					{PEM: []byte(identitytest.PEM(root.Root())), SerialNumber: root.Root().SerialNumber.Text(10), ValidFrom: ca1990, ExpirationTime: ca2100},
				},
			},
			{Identity: account("c").String(), State: "Initializing", CertChain: none, RootCerts: none},
		}
		if diff := cmp.Diff(want, m.Dump()); diff != "" {
			t.Errorf("Dump() (-want +got):\n%s", diff)
		}
	})
}
