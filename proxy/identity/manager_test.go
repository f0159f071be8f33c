package identity_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

// scriptedCA is a CA with a delay that fails while it is told to, and notes every call.
type scriptedCA struct {
	ca      *identitytest.CA
	latency time.Duration
	start   time.Time

	mu    sync.Mutex
	err   error
	calls []string // "SERVICE-ACCOUNT SECONDS", in the order of their begin
}

func newScriptedCA(t *testing.T, latency, ttl time.Duration) *scriptedCA {
	ca := identitytest.NewCA(t)
	ca.TTL = ttl
	return &scriptedCA{ca: ca, latency: latency, start: time.Now()}
}

func (s *scriptedCA) Sign(ctx context.Context, id spiffe.ID) (*identity.Certificate, error) {
	s.mu.Lock()
	s.calls = append(s.calls, fmt.Sprintf("%s %g", id.ServiceAccount, time.Since(s.start).Seconds()))
	err := s.err
	s.mu.Unlock()
	if s.latency > 0 {
		select {
		case <-time.After(s.latency):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	return s.ca.Sign(ctx, id)
}

func (s *scriptedCA) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// called returns the calls since the last time.
func (s *scriptedCA) called() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// order is called without the times.
func (s *scriptedCA) order() string {
	var names []string
	for _, c := range s.called() {
		name, _, _ := strings.Cut(c, " ")
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func account(name string) spiffe.ID {
	return spiffe.ID{TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: name}
}

// run runs a manager to the end of the test, which waits for it. It renews at exactly half of the life.
func run(t *testing.T, ca identity.CA, cfg identity.Config) *identity.Manager {
	t.Helper()
	cfg.Spread = -1
	m := identity.NewManager(ca, cfg)
	runRegistered(t, m)
	return m
}

// runRegistered is run for a manager that was made before.
func runRegistered(t *testing.T, m *identity.Manager) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// want asks for a certificate and demands it.
func want(t *testing.T, m *identity.Manager, name string, p identity.Priority) *identity.Certificate {
	t.Helper()
	c, err := m.Certificate(t.Context(), account(name), p)
	if err != nil {
		t.Fatalf("Certificate(%s) = %v, want a certificate", name, err)
	}
	return c
}

// state is that of an identity in the dump, "" if it is not held.
func state(m *identity.Manager, name string) string {
	for _, d := range m.Dump() {
		if d.Identity == account(name).String() {
			return d.State
		}
	}
	return ""
}

func TestManager_Priorities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, time.Second, 1000*time.Second)
		m := run(t, ca, identity.Config{Concurrency: 1})
		var asking sync.WaitGroup
		for _, r := range []struct {
			name string
			p    identity.Priority
		}{{"id1", identity.Background}, {"id2", identity.Background}, {"id3", identity.Warmup}, {"id4", identity.RealTime}} {
			asking.Go(func() { want(t, m, r.name, r.p) })
			synctest.Wait()
		}
		asking.Wait()
		if got := ca.order(); got != "id1 id4 id3 id2" {
			t.Errorf("order of requests = %s, want id1 id4 id3 id2", got)
		}
		// Now is 4 s. Certificates were issued at 1, 2, 3 and 4 s, so the first is at half of its life at 501 s.
		time.Sleep(497*time.Second - time.Millisecond)
		synctest.Wait()
		if got := ca.called(); got != nil {
			t.Errorf("calls 1 ms before half of the life = %v, want none", got)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := ca.called(); !slices.Equal(got, []string{"id1 501", "id4 502", "id3 503", "id2 504"}) {
			t.Errorf("renewals = %v, want id1 501, id4 502, id3 503, id2 504", got)
		}
	})
}

// What nobody waits for is held back together once, and neither connections nor what comes later are.
func TestManager_Hold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, time.Second, 1000*time.Second)
		m := run(t, ca, identity.Config{Hold: 10 * time.Second})
		begin := time.Now()
		prefetch := func(names ...string) {
			for _, name := range names {
				if err := m.Prefetch(account(name)); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
		}
		prefetch("id1", "id2")
		time.Sleep(4 * time.Second)
		prefetch("id3")
		want(t, m, "id2", identity.RealTime)
		if at := time.Since(begin); at != 5*time.Second {
			t.Errorf("the certificate that a connection needs came after %v, want 5s", at)
		}
		if got := ca.order(); got != "id2" {
			t.Errorf("requests in the first 5 s: %s, want id2", got)
		}
		time.Sleep(5*time.Second - time.Millisecond)
		synctest.Wait()
		if got := ca.order(); got != "" {
			t.Errorf("requests from then to 10 s: %s, want none", got)
		}
		want(t, m, "id3", identity.Warmup)
		if at := time.Since(begin); at > 13*time.Second {
			t.Errorf("the last of the burst came after %v, want at most 13s", at)
		}
		want(t, m, "id1", identity.Warmup)
		synctest.Wait() // until the manager has seen the end of the burst too
		begin = time.Now()
		prefetch("id4")
		want(t, m, "id4", identity.Warmup)
		if at := time.Since(begin); at != 11*time.Second {
			t.Errorf("the next burst came after %v, want 11s", at)
		}
	})
}

func TestManager_RealTimeGoesFirst(t *testing.T) {
	for _, tt := range []struct{ urgent, want string }{
		{"realtime", "warmup-1 realtime"},
		{"warmup-4", "warmup-1 warmup-4"},
	} {
		t.Run(tt.urgent, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newScriptedCA(t, time.Second, time.Hour)
				m := run(t, ca, identity.Config{Concurrency: 1})
				for i := range 4 {
					if err := m.Prefetch(account(fmt.Sprintf("warmup-%d", i+1))); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				want(t, m, tt.urgent, identity.RealTime)
				if got := ca.order(); !strings.HasPrefix(got+" ", tt.want+" ") {
					t.Errorf("order of requests = %s, want %s first", got, tt.want)
				}
			})
		})
	}
}

func TestManager_SharedRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, time.Second, time.Hour)
		m := run(t, ca, identity.Config{})
		var got [4]*identity.Certificate
		var asking sync.WaitGroup
		for i := range got {
			asking.Go(func() { got[i] = want(t, m, "a", identity.RealTime) })
		}
		asking.Wait()
		if n := len(ca.called()); n != 1 {
			t.Errorf("requests = %d, want 1", n)
		}
		for i := range got {
			if got[i] != got[0] {
				t.Errorf("Certificate() number %d = %p, want %p", i, got[i], got[0])
			}
		}
	})
}

func TestManager_Concurrency(t *testing.T) {
	for _, tt := range []struct {
		concurrency int
		want        time.Duration
	}{{1, 9 * time.Second}, {4, 3 * time.Second}, {0, 2 * time.Second}} {
		t.Run(fmt.Sprint(tt.concurrency), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newScriptedCA(t, time.Second, time.Hour)
				m := run(t, ca, identity.Config{Concurrency: tt.concurrency})
				start := time.Now()
				var asking sync.WaitGroup
				for i := range 9 {
					asking.Go(func() { want(t, m, fmt.Sprint(i), identity.RealTime) })
				}
				asking.Wait()
				if got := time.Since(start); got != tt.want {
					t.Errorf("9 requests of 1 s took %v, want %v", got, tt.want)
				}
			})
		})
	}
}

func TestManager_FailureAndRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, 0, time.Hour)
		m := run(t, ca, identity.Config{})
		broken := &identity.RequestError{Code: "Unavailable", Message: "injected"}
		ca.fail(broken)
		if _, err := m.Certificate(t.Context(), account("a"), identity.RealTime); !errors.Is(err, broken) {
			t.Fatalf("Certificate() = %v, want %v", err, broken)
		}
		if got := state(m, "a"); got != "Unavailable: signing gRPC error (Unavailable): injected" {
			t.Errorf("state = %q, want Unavailable with the reason", got)
		}
		ca.fail(nil)
		if _, err := m.Certificate(t.Context(), account("a"), identity.RealTime); !errors.Is(err, broken) {
			t.Errorf("Certificate() right after = %v, want the same error", err)
		}
		if got := len(ca.called()); got != 1 {
			t.Errorf("requests = %d, want 1: asking does not retry", got)
		}
		time.Sleep(3 * time.Second)
		want(t, m, "a", identity.RealTime)
	})
}

func TestManager_Backoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, 0, time.Hour)
		ca.fail(errors.New("injected"))
		m := run(t, ca, identity.Config{})
		m.Certificate(t.Context(), account("a"), identity.RealTime)
		time.Sleep(time.Hour)
		synctest.Wait()
		var times []float64
		for _, c := range ca.called() {
			var name string
			var at float64
			fmt.Sscan(c, &name, &at)
			times = append(times, at)
		}
		for i, want := range []float64{1, 2, 4, 8, 16, 32, 64, 128, 150, 150} {
			if got := times[i+1] - times[i]; got < want*0.8 || got > want*1.2 {
				t.Errorf("delay before retry %d = %g s, want %g s or a fifth more or less", i+1, got, want)
			}
		}
		if n := len(times); times[n-1]-times[n-2] != 150 {
			t.Errorf("delay of the last retry = %g s, want exactly 150 s after a quarter of an hour", times[n-1]-times[n-2])
		}
		// A success ends the sequence, another identity has its own.
		ca.fail(nil)
		time.Sleep(151 * time.Second)
		want(t, m, "a", identity.RealTime)
		ca.fail(errors.New("injected"))
		ca.called()
		if _, err := m.Certificate(t.Context(), account("b"), identity.RealTime); err == nil {
			t.Fatal("Certificate(b) = nil error, want the failure")
		}
		time.Sleep(1300 * time.Millisecond)
		synctest.Wait()
		if got := ca.order(); got != "b b" {
			t.Errorf("requests = %s, want b and its first retry", got)
		}
		m.Forget(account("b"))
		time.Sleep(2 * time.Hour) // a was renewed at half of its hour, which failed, and expired
		ca.fail(nil)
		time.Sleep(151 * time.Second)
		c := want(t, m, "a", identity.RealTime)
		ca.called()
		ca.fail(errors.New("injected"))
		time.Sleep(time.Until(c.RenewAt()) + 1300*time.Millisecond)
		synctest.Wait()
		if got := ca.called(); len(got) != 2 {
			t.Errorf("requests = %v, want a renewal and its first retry about a second later", got)
		}
	})
}

func TestManager_KeepsServingWhileRenewalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, 0, 100*time.Second)
		m := run(t, ca, identity.Config{})
		first := want(t, m, "a", identity.RealTime)
		ca.fail(errors.New("injected"))
		ca.called()
		time.Sleep(100*time.Second - time.Millisecond)
		synctest.Wait()
		if got := want(t, m, "a", identity.RealTime); got != first {
			t.Error("Certificate() at the end of its life is another one, want the first one")
		}
		// 50 s, then after about 1, 2, 4, 8, 16 s; the next would be beyond the expiry, so it is at the expiry.
		if got := len(ca.called()); got != 6 {
			t.Errorf("renewals before expiry = %d, want 6", got)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if got := ca.called(); !slices.Equal(got, []string{"a 100"}) {
			t.Errorf("renewals at expiry = %v, want one at 100 s", got)
		}
		if _, err := m.Certificate(t.Context(), account("a"), identity.RealTime); err == nil {
			t.Error("Certificate() after expiry = nil error, want the failure")
		}
		ca.fail(nil)
		time.Sleep(151 * time.Second)
		if got := want(t, m, "a", identity.RealTime); got == first {
			t.Error("Certificate() after recovery is the expired one, want a new one")
		}
	})
}

func TestManager_ShortLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, 0, 50*time.Millisecond)
		m := run(t, ca, identity.Config{})
		first := want(t, m, "a", identity.RealTime)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if want(t, m, "a", identity.RealTime) == first {
			t.Error("Certificate() 2 s later is the same, want a newer one")
		}
		if n := len(ca.called()); n > 3 {
			t.Errorf("requests in 2 s = %d, want at most one a second", n)
		}
	})
}

func TestManager_Forget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, time.Second, 100*time.Second)
		m := run(t, ca, identity.Config{Concurrency: 1})
		forget := func(name string) {
			t.Helper()
			result := make(chan error)
			go func() {
				_, err := m.Certificate(t.Context(), account(name), identity.RealTime)
				result <- err
			}()
			synctest.Wait()
			m.Forget(account(name))
			if err := <-result; !errors.Is(err, identity.ErrForgotten) {
				t.Errorf("Certificate(%s), forgotten meanwhile = %v, want %v", name, err, identity.ErrForgotten)
			}
			if got := state(m, name); got != "" {
				t.Errorf("state of %s after Forget = %s, want not held", name, got)
			}
		}
		forget("flying")
		forget("queued") // behind it
		time.Sleep(3 * time.Second)
		if got := ca.order(); got != "flying" {
			t.Errorf("requests = %s, want flying alone", got)
		}
		if got := m.Dump(); len(got) != 0 {
			t.Errorf("Dump() = %v, want nothing: the result came after Forget", got)
		}

		forget("again")
		want(t, m, "again", identity.RealTime)
		if got := ca.order(); got != "again" {
			t.Errorf("requests = %s, want one: the one that ran was for an identity wanted again", got)
		}
		m.Forget(account("again"))
		m.Forget(account("never asked for"))
		time.Sleep(time.Hour)
		if got := ca.called(); got != nil {
			t.Errorf("requests after Forget = %v, want no renewal", got)
		}
		want(t, m, "again", identity.RealTime)
	})
}

func TestManager_CallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, time.Second, time.Hour)
		m := run(t, ca, identity.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := m.Certificate(ctx, account("a"), identity.RealTime)
		if !errors.Is(err, context.DeadlineExceeded) || connection.FlagOf(err) != connection.FlagIdentity {
			t.Errorf("Certificate() = %v with flag %s, want a deadline with IDENTITY_ERROR", err, connection.FlagOf(err))
		}
		want(t, m, "a", identity.RealTime)
		if got := ca.order(); got != "a" {
			t.Errorf("requests = %s, want one that outlives its caller", got)
		}
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if _, err := m.Certificate(ctx, account("a"), identity.RealTime); err != nil {
			t.Errorf("Certificate() of one that is there = %v, want it in spite of the context", err)
		}
	})
}

func TestManager_CSRTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, time.Hour, time.Hour)
		m := run(t, ca, identity.Config{})
		start := time.Now()
		_, err := m.Certificate(t.Context(), account("a"), identity.RealTime)
		const text = "signing gRPC error (Deadline expired before operation could complete): no answer within 30s (CSR_TIMEOUT)"
		if err == nil || err.Error() != text {
			t.Errorf("Certificate() = %v, want %s", err, text)
		}
		if got := time.Since(start); got != 30*time.Second {
			t.Errorf("Certificate() took %v, want 30s", got)
		}
	})
}
