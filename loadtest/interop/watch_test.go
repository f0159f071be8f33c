package interop

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ztunnel/proxy/needs"
)

func TestFields(t *testing.T) {
	const line = "2026-01-02T03:04:05Z\tinfo\taccess\tconnection complete\t" +
		`src.addr=10.0.0.1:5 src.identity="spiffe://a/ns/b/sa/c" bytes_sent=12 error="says \"no\" at last"`
	for _, test := range []struct {
		want fields
		in   bool
	}{
		{nil, true},
		{fields{"src.addr=10.0.0.1:5", "src.identity=spiffe://a/ns/b/sa/c", "bytes_sent=12"}, true},
		{fields{`error=says "no" at last`}, true},
		{fields{"src.addr=10.0.0.1:…"}, true},
		{fields{"src.identity=spiffe://a/…", "error=…"}, true},
		{fields{"bytes_sent=1"}, false},
		{fields{"bytes_sent=1…"}, true},
		{fields{"sent=12"}, false},
		{fields{"src.identity=spiffe://a/ns/b/sa/"}, false},
		{fields{"bytes_sent=12", "dst.addr=10.0.0.1:5"}, false},
	} {
		if got := test.want.in(line); got != test.in {
			t.Errorf("%q in the line: %t, want %t", test.want, got, test.in)
		}
	}
	for name, want := range map[string]string{
		"src.addr": "10.0.0.1:5", "src.identity": "spiffe://a/ns/b/sa/c", "error": `says "no" at last`, "addr": "",
	} {
		if got := value(line, name); got != want {
			t.Errorf("value of %s = %q, want %q", name, got, want)
		}
	}
}

func TestParseStats(t *testing.T) {
	got := parseStats("http.a.downstream_cx_total: 3\n\ncluster.b.upstream_rq_time: No recorded values\nhttp.a.text: \"x\"\nc: 0\n")
	if diff := cmp.Diff(stats{"http.a.downstream_cx_total": 3, "c": 0}, got); diff != "" {
		t.Errorf("parseStats (-want +got):\n%s", diff)
	}
}

// What is no Envoy is told at once; what is no ztunnel fails at a step.
func TestRunFails(t *testing.T) {
	needs.Root(t)
	var out strings.Builder
	if ok, err := Run(t.Context(), Config{Binary: "/bin/false", Envoy: "/bin/false", Dir: t.TempDir(), Out: &out}); ok || err == nil {
		t.Errorf("Run without Envoy = %t, %v, want an error", ok, err)
	}
	ok, err := Run(t.Context(), Config{Binary: "/bin/false", Envoy: "/bin/true", Dir: t.TempDir(), Out: &out})
	if err != nil || ok || strings.Count(out.String(), `three ztunnels" failed`) != len(families) {
		t.Errorf("Run(/bin/false) = %t, %v, want false; it printed:\n%s", ok, err, &out)
	}
	out.Reset()
	ok, err = Run(t.Context(), Config{Binary: "/bin/false", Envoy: "/bin/true", Dir: t.TempDir(), Out: &out, IPv4: true})
	if err != nil || ok || strings.Contains(out.String(), "IPv6") {
		t.Errorf("Run(/bin/false) over IPv4 = %t, %v, want false; it printed:\n%s", ok, err, &out)
	}
}
