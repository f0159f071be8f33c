package profiling

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// upload is a request that the test's server received.
type upload struct {
	name, tenant string
	user         string
	strings      []string // string table of the profile
	samples      int
}

// newServer decodes what is pushed to it.
func newServer(t *testing.T) (*httptest.Server, <-chan upload) {
	uploads := make(chan upload, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/ingest" {
			t.Errorf("got %s %s, want POST /ingest", r.Method, r.URL.Path)
		}
		f, _, err := r.FormFile("profile")
		if err != nil {
			t.Errorf("no profile in the form: %v", err)
			return
		}
		raw, err := io.ReadAll(f)
		if err != nil {
			t.Error(err)
		}
		u := upload{name: r.URL.Query().Get("name"), tenant: r.Header.Get("X-Scope-OrgID")}
		u.user, _, _ = r.BasicAuth()
		u.strings, u.samples = decode(t, raw)
		select {
		case uploads <- u:
		default:
		}
	}))
	t.Cleanup(s.Close)
	return s, uploads
}

// decode reads the string table and the number of samples of a profile in the
// format of pprof.
func decode(t *testing.T, raw []byte) (table []string, samples int) {
	if z, err := gzip.NewReader(bytes.NewReader(raw)); err == nil {
		if raw, err = io.ReadAll(z); err != nil {
			t.Error(err)
		}
	}
	for len(raw) > 0 {
		number, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			t.Errorf("profile: %v", protowire.ParseError(n))
			return nil, 0
		}
		raw = raw[n:]
		switch {
		case number == 6 && kind == protowire.BytesType:
			var s []byte
			if s, n = protowire.ConsumeBytes(raw); n >= 0 {
				table = append(table, string(s))
			}
		case number == 2:
			samples++
			fallthrough
		default:
			n = protowire.ConsumeFieldValue(number, kind, raw)
		}
		if n < 0 {
			t.Errorf("profile: %v", protowire.ParseError(n))
			return nil, 0
		}
		raw = raw[n:]
	}
	return table, samples
}

func run(t *testing.T, cfg Config, lock *CPULock) (stop func()) {
	t.Helper()
	p, err := New(cfg, lock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run() = %v, want nil", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("Run does not return")
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestPush(t *testing.T) {
	server, uploads := newServer(t)
	run(t, Config{
		ServerAddress: server.URL, ApplicationName: "ztunnel-test", TenantID: "tenant", BasicAuthUser: "user", BasicAuthPassword: "secret",
		Tags: map[string]string{"node": "node1", "pod": "ztunnel-x", "version": ""}, UploadRate: 100 * time.Millisecond,
	}, new(CPULock))
	want := map[string]bool{"cpu": false, "goroutine": false, "inuse_space": false}
	deadline := time.After(30 * time.Second)
	for slices.Contains([]bool{want["cpu"], want["goroutine"], want["inuse_space"]}, false) {
		select {
		case u := <-uploads:
			if !strings.HasPrefix(u.name, "ztunnel-test{") || !strings.Contains(u.name, "node=node1") || !strings.Contains(u.name, "pod=ztunnel-x") || strings.Contains(u.name, ",version=") {
				t.Errorf("name of the profile is %q, want the application with the tags node and pod only", u.name)
			}
			if u.tenant != "tenant" || u.user != "user" {
				t.Errorf("tenant %q, user %q, want those configured", u.tenant, u.user)
			}
			for kind := range want {
				// A CPU profile may have no sample, when all was idle.
				if slices.Contains(u.strings, kind) && (kind == "cpu" || u.samples > 0) {
					want[kind] = true
				}
			}
		case <-deadline:
			t.Fatalf("profiles that arrived: %v, want all", want)
		}
	}
}

// The environment cannot send profiles, and the credentials, elsewhere.
func TestPush_NotElsewhere(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("profiles were sent elsewhere") }))
	defer elsewhere.Close()
	t.Setenv("PYROSCOPE_ADHOC_SERVER_ADDRESS", elsewhere.URL)
	server, uploads := newServer(t)
	run(t, Config{ServerAddress: server.URL, BasicAuthUser: "user", BasicAuthPassword: "secret", UploadRate: 100 * time.Millisecond}, new(CPULock))
	select {
	case <-uploads:
	case <-time.After(30 * time.Second):
		t.Error("no profile was pushed to the configured server")
	}
}

// Off is off: nothing is started, nothing is waited for.
func TestOff(t *testing.T) {
	p, err := New(Config{}, new(CPULock))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(context.Background()); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

func TestNew_BadAddress(t *testing.T) {
	for _, address := range []string{"pyroscope:4040", "/", "ftp://x"} {
		if _, err := New(Config{ServerAddress: address}, new(CPULock)); err == nil {
			t.Errorf("New(%q) succeeded, want an error", address)
		}
	}
}

// Whoever wants a CPU profile gets one although profiles are pushed all the
// time, and pushing goes on afterwards.
func TestPushMakesRoom(t *testing.T) {
	server, uploads := newServer(t)
	lock := new(CPULock)
	run(t, Config{ServerAddress: server.URL, UploadRate: 50 * time.Millisecond}, lock)
	<-uploads
	if !lock.TryLock() {
		t.Fatal("TryLock() = false while only profiles are pushed, want true")
	}
	if lock.TryLock() {
		t.Error("TryLock() = true while somebody takes a profile, want false")
	}
	if err := pprof.StartCPUProfile(io.Discard); err != nil {
		t.Errorf("a CPU profile under the lock: %v", err)
	}
	pprof.StopCPUProfile()
	for len(uploads) > 0 {
		<-uploads
	}
	lock.Unlock()
	select {
	case <-uploads:
	case <-time.After(30 * time.Second):
		t.Error("no upload after the lock was given back")
	}
}

// A server that accepts and never answers does not hold up the end.
func TestPush_DeadServer(t *testing.T) {
	dialed := make(chan struct{}, 100)
	stop := run(t, Config{
		ServerAddress: "http://pyroscope:4040", UploadRate: 20 * time.Millisecond,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "pyroscope:4040" {
				t.Errorf("dialed %s, want the server", address)
			}
			select {
			case dialed <- struct{}{}:
			default:
			}
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}, new(CPULock))
	<-dialed
	began := time.Now()
	stop()
	if d := time.Since(began); d > 10*flushTimeout {
		t.Errorf("the end took %v, want about %v", d, flushTimeout)
	}
}

func TestCPULock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l CPULock
		if !l.TryLock() || l.TryLock() {
			t.Fatal("TryLock() of a free lock and of a held one must be true and false")
		}
		got := make(chan (<-chan struct{}), 1)
		go func() {
			yield, err := l.lockYielding(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- yield
		}()
		synctest.Wait()
		l.Unlock()
		yield := <-got
		go func() {
			<-yield
			l.Unlock()
		}()
		if !l.TryLock() {
			t.Fatal("TryLock() = false for a lock whose holder yields, want true")
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("stop")
		cancel(stop)
		if _, err := l.lockYielding(ctx); !errors.Is(err, stop) {
			t.Errorf("lockYielding() = %v, want the cause of its context", err)
		}
		l.Unlock()
		if !l.TryLock() {
			t.Error("TryLock() of a lock that was given back = false, want true")
		}
	})
}
