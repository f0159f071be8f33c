package show

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"ztunnel/loadtest/cluster"
	"ztunnel/proxy/needs"
)

var binary = flag.String("ztunnel", "", "path of a drop-in ztunnel to show instead of that of this repository")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// The whole of it, as it is shown to people.
func TestRun(t *testing.T) {
	needs.Root(t)
	path := *binary
	if path == "" {
		path = filepath.Join(t.TempDir(), "ztunnel")
		if err := cluster.Build(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	ok, err := Run(t.Context(), Config{Binary: path, Dir: t.TempDir(), Own: *binary == "", Out: &out})
	if err != nil || !ok || !strings.Contains(out.String(), "All of it is true here.") {
		t.Errorf("Run() = %t, %v, want true; it printed:\n%s", ok, err, &out)
	}
}

// A binary that is no ztunnel fails, at a step that is told.
func TestRunFails(t *testing.T) {
	needs.Root(t)
	var out strings.Builder
	ok, err := Run(t.Context(), Config{Binary: "/bin/false", Dir: t.TempDir(), Own: true, Out: &out})
	if err != nil || ok || !strings.Contains(out.String(), `step "start two ztunnels and wait until they are ready" failed`) {
		t.Errorf("Run(/bin/false) = %t, %v, want false; it printed:\n%s", ok, err, &out)
	}
}

func TestParseLine(t *testing.T) {
	got, ok := parseLine("2026-01-02T03:04:05.000006Z\terror\taccess\tconnection complete\t" +
		`src.addr=[fd64::1]:1 src.workload="a \"b\" c=d" bytes_sent=5 error="http status: 401 Unauthorized"`)
	want := logLine{level: "error", scope: "access", message: "connection complete", fields: map[string]string{
		"src.addr": "[fd64::1]:1", "src.workload": `a "b" c=d`, "bytes_sent": "5", "error": "http status: 401 Unauthorized",
	}}
	if !ok || !cmp.Equal(want, got, cmp.AllowUnexported(logLine{})) {
		t.Errorf("parseLine = %+v, %t, want %+v", got, ok, want)
	}
	if got, ok := parseLine("time\tinfo\tapp\tready\t"); !ok || got.message != "ready" || len(got.fields) != 0 {
		t.Errorf("parseLine without fields = %+v, %t", got, ok)
	}
	for _, text := range []string{"", "panic: no", "a\tb\tc", "a\tb\tc\td\tno equals sign"} {
		if got, ok := parseLine(text); ok {
			t.Errorf("parseLine(%q) = %+v, want none", text, got)
		}
	}
}

func parse(t *testing.T, text string) metrics {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func TestMetrics(t *testing.T) {
	m := parse(t, `# TYPE a_total counter
a_total{x="1",y="1"} 3
a_total{x="1",y="2"} 4
a_total{x="2",y="1"} 5
# TYPE b gauge
b 1
`)
	if m.series() != 4 {
		t.Errorf("series() = %d, want 4", m.series())
	}
	for _, test := range []struct {
		family string
		labels map[string]string
		n      int
		sum    float64
	}{
		{"a_total", nil, 3, 12},
		{"a_total", map[string]string{"x": "1"}, 2, 7},
		{"a_total", map[string]string{"x": "1", "y": "2"}, 1, 4},
		{"a_total", map[string]string{"x": "1", "z": "2"}, 0, 0},
		{"absent", nil, 0, 0},
	} {
		found := m.find(test.family, test.labels)
		if len(found) != test.n || sum(found) != test.sum {
			t.Errorf("%s%v: %d series, sum %v, want %d, %v", test.family, test.labels, len(found), sum(found), test.n, test.sum)
		}
	}
	if got, want := m.show("a_total", map[string]string{"x": "2", "y": "1"}), "  value 3, but x=\"1\"\n  value 4, but x=\"1\" y=\"2\"\n  value 5, but\n"; got != want {
		t.Errorf("show = %q, want %q", got, want)
	}
}

func TestListensAt(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:3AA0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0
   1: 0100007F:3AAC 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0
`
	path := filepath.Join(t.TempDir(), "tcp")
	if err := os.WriteFile(path, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	for port, want := range map[uint16]bool{15008: true, 15020: false, 15001: false} { // 15020 is connected, not listening
		if got, err := listensAt(path, port); got != want || err != nil {
			t.Errorf("listensAt(%d) = %t, %v, want %t", port, got, err, want)
		}
	}
	if _, err := listensAt(filepath.Join(t.TempDir(), "tcp"), 1); err == nil {
		t.Error("listensAt without a table = nil, want an error")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listensAt(path, 1); err == nil {
		t.Error("listensAt of an empty file = nil, want an error")
	}
}
