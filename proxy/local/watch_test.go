package local

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"ztunnel/proxy/rbac"
	"ztunnel/proxy/workload"
)

// patience is how long a change may take to arrive before a test fails.
const patience = 20 * time.Second

// rig is a source of which each log line can be waited for.
type rig struct {
	*Source
	t       *testing.T
	path    string
	store   *workload.Store
	metrics *Metrics
	lines   chan string
	text    lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (r *rig) Write(p []byte) (int, error) {
	r.lines <- string(p)
	return r.text.Write(p)
}

func named(uid string) string {
	return "workloads: [{uid: " + uid + ", workloadIps: [10.0.0.1], namespace: ns, services: {}}]\n"
}

func newRig(t *testing.T, path string) *rig {
	t.Helper()
	r := &rig{t: t, path: path, store: workload.NewStore(workload.Config{}), metrics: &Metrics{}, lines: make(chan string, 100)}
	log := slog.New(slog.NewTextHandler(r, nil))
	r.Source = New(Config{Path: path, Store: r.store, Policies: rbac.NewSet(discard(), false), Log: log, Metrics: r.metrics})
	return r
}

// start loads the file and watches it until the test ends.
func (r *rig) start(watch func(context.Context) error) {
	r.t.Helper()
	if err := r.Load(); err != nil {
		r.t.Fatal(err)
	}
	r.expect("local config initialized")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- watch(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Watch = %v, want nil", err)
		}
	})
}

// expect waits for a log line.
func (r *rig) expect(part string) {
	r.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case line := <-r.lines:
			if strings.Contains(line, part) {
				return
			}
		case <-timeout:
			r.t.Fatalf("no log line with %q within %v; log:\n%s", part, patience, r.text.String())
		}
	}
}

func (r *rig) wantWorkload(uid string) {
	r.t.Helper()
	if r.store.WorkloadByUID(uid) == nil {
		r.t.Errorf("WorkloadByUID(%s) = nil, want it", uid)
	}
	if n := len(r.store.Workloads()); n != 1 {
		r.t.Errorf("Workloads() has %d, want 1", n)
	}
	if got := r.Loaded().Workloads[0].UID; got != uid {
		r.t.Errorf("Loaded() has %s, want %s", got, uid)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, link string) {
	t.Helper()
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
}

func TestWatchFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "local.yaml")
	write(t, path, named("one"))
	r := newRig(t, path)
	r.start(r.Watch)
	r.wantWorkload("one")

	write(t, path, named("two")) // in place
	r.expect("local config reloaded")
	r.wantWorkload("two")

	elsewhere := filepath.Join(t.TempDir(), "new.yaml")
	write(t, elsewhere, named("three")) // replaced
	rename(t, elsewhere, path)
	r.expect("local config reloaded")
	r.wantWorkload("three")
	if r.metrics.Reloaded() != 2 {
		t.Errorf("reloaded = %d, want 2", r.metrics.Reloaded())
	}
}

func TestWatchBadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "local.yaml")
	write(t, path, named("one"))
	r := newRig(t, path)
	r.start(r.Watch)
	write(t, path+".bad", "workloads:\n- {namespaces: ns}")
	rename(t, path+".bad", path)
	r.expect("the old one stays in force")
	r.wantWorkload("one")
	if want := "workloads[0].namespaces (line 2): unknown field"; !strings.Contains(r.text.String(), want) {
		t.Errorf("log lacks %q:\n%s", want, r.text.String())
	}
	write(t, path+".same", "workloads:\n- {namespaces: ns}")
	rename(t, path+".same", path) // the same content again says nothing
	write(t, path+".new", named("two"))
	rename(t, path+".new", path)
	r.expect("local config reloaded")
	r.wantWorkload("two")
	if r.metrics.Refused() != 1 || strings.Count(r.text.String(), "ERROR") != 1 {
		t.Errorf("refused = %d, want 1 and one log line; log:\n%s", r.metrics.Refused(), r.text.String())
	}
}

// What is wrong is said once, until something else is wrong. (Events come too close together to tell.)
func TestReloadSaysOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "local.yaml")
	write(t, path, named("one"))
	r := newRig(t, path)
	if err := r.Load(); err != nil {
		t.Fatal(err)
	}
	want := uint64(0)
	for _, spoil := range []func(){
		func() { write(t, path, "workloads: 5") },
		func() { rename(t, path, path+".away") },
		func() { write(t, path, "workloads: 6") },
		func() { rename(t, path, path+".away") }, // the same as before, but not in a row
	} {
		spoil()
		r.reload()
		r.reload()
		want++
		if n := strings.Count(r.text.String(), "ERROR"); r.metrics.Refused() != want || n != int(want) {
			t.Errorf("refused = %d with %d log lines, want %d; log:\n%s", r.metrics.Refused(), n, want, r.text.String())
		}
	}
	r.wantWorkload("one")
}

// Kubernetes mounts a file as a link into a directory that is a link itself, and replaces that one.
func TestWatchKubernetes(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"..1", "..2"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, d, "local.yaml"), named("in"+d[2:]))
	}
	symlink(t, "..1", filepath.Join(dir, "..data"))
	symlink(t, "..data/local.yaml", filepath.Join(dir, "local.yaml"))
	r := newRig(t, filepath.Join(dir, "local.yaml"))
	r.start(r.Watch)
	r.wantWorkload("in1")
	symlink(t, "..2", filepath.Join(dir, "..data_tmp"))
	rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
	r.expect("local config reloaded")
	r.wantWorkload("in2")
}

func TestWatchMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "local.yaml")
	write(t, path, named("one"))
	r := newRig(t, path)
	r.start(r.Watch)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r.expect("no such file")
	r.wantWorkload("one")
	write(t, path+".new", named("two"))
	rename(t, path+".new", path)
	r.expect("local config reloaded")
	r.wantWorkload("two")
	if r.metrics.Refused() != 1 {
		t.Errorf("refused = %d, want 1", r.metrics.Refused())
	}
}

// A change between Load and Watch is not told by an event.
func TestWatchSeesEarlierChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "local.yaml")
	write(t, path, named("one"))
	r := newRig(t, path)
	r.start(func(ctx context.Context) error {
		write(t, path, named("two"))
		return r.Watch(ctx)
	})
	r.expect("local config reloaded")
	r.wantWorkload("two")
}

func TestPoll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "local.yaml")
	write(t, path, named("one"))
	r := newRig(t, path)
	r.start(func(ctx context.Context) error { return r.poll(ctx, 10*time.Millisecond) })
	write(t, path+".new", named("two"))
	rename(t, path+".new", path)
	r.expect("local config reloaded")
	r.wantWorkload("two")
}

// Without its directory a file is polled, with a warning.
func TestWatchNoDirectory(t *testing.T) {
	r := newRig(t, filepath.Join(t.TempDir(), "none", "local.yaml"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Watch(ctx) }()
	r.expect("local config is polled")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Watch = %v, want nil", err)
	}
}

func TestLoadErrors(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Inline: "workloads: 5"}, `local config: workloads (line 1): expected a list, got "5"`},
		{Config{Path: "/nonexistent/x.yaml"}, "read local config: open /nonexistent/x.yaml: no such file or directory"},
		{Config{Path: "testdata/full.yaml", Inline: "x"}, ""},
	} {
		tt.cfg.Store, tt.cfg.Policies, tt.cfg.Log = workload.NewStore(workload.Config{}), rbac.NewSet(discard(), false), discard()
		err := New(tt.cfg).Load()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || err.Error() != tt.want) {
			t.Errorf("Load(%q) = %v, want %q", tt.cfg.Path, err, tt.want)
		}
	}
	path := filepath.Join(t.TempDir(), "bad.yaml")
	write(t, path, "services: [{}]")
	r := newRig(t, path)
	if err := r.Load(); err == nil || err.Error() != "local config "+path+": services[0].name (line 1): missing" {
		t.Errorf("Load = %v, want the path and the field", err)
	}
}

func TestWatchInline(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := New(Config{Inline: "{}"}).Watch(ctx); err != nil {
		t.Errorf("Watch of an inline configuration = %v, want nil", err)
	}
}

func TestMetrics(t *testing.T) {
	reader := metric.NewManualReader()
	m := &Metrics{}
	if err := m.Register(metric.NewMeterProvider(metric.WithReader(reader)).Meter("local")); err != nil {
		t.Fatal(err)
	}
	m.reloaded.Add(2)
	var data metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &data); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	family := data.ScopeMetrics[0].Metrics[0]
	for _, p := range family.Data.(metricdata.Sum[int64]).DataPoints {
		result, _ := p.Attributes.Value("result")
		got[result.AsString()] = p.Value
	}
	if family.Name != "istio_ztunnel_local_config_reloads_total" || got["success"] != 2 || got["error"] != 0 || len(got) != 2 {
		t.Errorf("%s = %v, want success 2 and error 0", family.Name, got)
	}
}
