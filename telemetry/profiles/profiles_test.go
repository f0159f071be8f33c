package profiles

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(ctx context.Context, h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil).WithContext(ctx))
	return w
}

// isProfile tells whether a body is a profile in protobuf and gzip.
func isProfile(b []byte) bool {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return false
	}
	content, err := io.ReadAll(z)
	return err == nil && len(content) > 0
}

func TestKeptProfiles(t *testing.T) {
	h := New(&sync.Mutex{})
	for _, name := range []string{"heap", "heap?gc=1", "allocs", "goroutine", "mutex", "block", "threadcreate", "delta_heap", "delta_mutex", "delta_block", "delta_heap"} {
		w := get(t.Context(), h, Prefix+name)
		if w.Code != 200 || !isProfile(w.Body.Bytes()) || len(w.Header()["Content-Type"]) != 0 {
			t.Errorf("%s: got %d %v, want a profile without a content type", name, w.Code, w.Header())
		}
	}
	for path, want := range map[string]string{
		"goroutine?debug=2": "goroutine ", "goroutine?debug=1": "goroutine profile", "symbol": "num_symbols", "cmdline": "profiles.test", "": `<a href="/debug/pprof/heap">`,
	} {
		if w := get(t.Context(), h, Prefix+path); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%q: got %d %.100q, want 200 with %q", path, w.Code, w.Body, want)
		}
	}
	for _, path := range []string{Prefix + "none", Prefix + "heap/", "/heap", "/debug/pprof"} {
		if w := get(t.Context(), h, path); w.Code != 404 || w.Body.Len() != 0 {
			t.Errorf("%s: got %d %q, want 404 and nothing", path, w.Code, w.Body)
		}
	}
}

func TestParameters(t *testing.T) {
	const seconds, frequency = "invalid seconds value; expected 1-300\n", "invalid frequency value; expected 1-1000\n"
	h := New(&sync.Mutex{})
	for query, want := range map[string]string{
		"profile?seconds=0": seconds, "profile?seconds=301": seconds, "profile?seconds=x": seconds, "profile?seconds=": seconds, "profile?seconds=1&seconds=0": seconds,
		"profile?frequency=0": frequency, "profile?frequency=1001": frequency, "profile?frequency=x": frequency, "trace?seconds=0": seconds,
		"heap/profiling?activate=maybe": "invalid activate value \"maybe\"; expected true or false\n",
		"heap/profiling?activate":       "invalid activate value \"\"; expected true or false\n",
	} {
		if w := get(t.Context(), h, Prefix+query); w.Code != 400 || w.Body.String() != want || w.Header().Get("Content-Type") != "text/plain" {
			t.Errorf("%s: got %d %q, want 400 %q", query, w.Code, w.Body, want)
		}
	}
}

// A CPU profile and a trace end with the server.
func TestTimedProfiles(t *testing.T) {
	h := New(&sync.Mutex{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if w := get(ctx, h, Prefix+"profile?seconds=300&frequency=99"); w.Code != 200 || !isProfile(w.Body.Bytes()) {
		t.Errorf("profile: got %d %.50q, want a profile", w.Code, w.Body)
	}
	if w := get(ctx, h, Prefix+"trace?seconds=300"); w.Code != 200 || !strings.HasPrefix(w.Body.String(), "go 1.") {
		t.Errorf("trace: got %d %.50q, want a trace", w.Code, w.Body)
	}
}

// One CPU profile at a time, whoever takes it.
func TestOneCPUProfile(t *testing.T) {
	var lock sync.Mutex
	h := New(&lock)
	lock.Lock()
	if w := get(t.Context(), h, Prefix+"profile?seconds=1"); w.Code != http.StatusConflict || w.Body.String() != "another CPU profile is being taken\n" {
		t.Errorf("got %d %q, want 409", w.Code, w.Body)
	}
	lock.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if w := get(ctx, h, Prefix+"profile"); w.Code != 200 {
		t.Errorf("got %d %q, want 200", w.Code, w.Body)
	}
	if !lock.TryLock() {
		t.Error("the lock is still held")
	}
}

func TestHeapProfiling(t *testing.T) {
	rate := runtime.MemProfileRate
	defer func() { runtime.MemProfileRate = rate }()
	h := New(&sync.Mutex{})
	for _, step := range []struct {
		query, want string
		rate        int
	}{
		{"", "heap profiling active: true\n", rate},
		{"?activate=false", "heap profiling active: false\n", 0},
		{"?activate=false", "heap profiling active: false\n", 0},
		{"", "heap profiling active: false\n", 0},
		{"?activate=true", "heap profiling active: true\n", rate},
	} {
		w := get(t.Context(), h, Prefix+"heap/profiling"+step.query)
		if w.Code != 200 || w.Body.String() != step.want || runtime.MemProfileRate != step.rate {
			t.Errorf("%q: got %d %q and rate %d, want %q and rate %d", step.query, w.Code, w.Body, runtime.MemProfileRate, step.want, step.rate)
		}
	}
}

func TestPagesAreListed(t *testing.T) {
	h := New(&sync.Mutex{})
	pages := h.Pages()
	if len(pages) != len(h.pages) || pages[0].Path != Prefix {
		t.Errorf("Pages() = %v, want all %d from %s on", pages, len(h.pages), Prefix)
	}
	for _, p := range pages {
		if p.Description == "" {
			t.Errorf("page %s has no description", p.Path)
		}
	}
}
