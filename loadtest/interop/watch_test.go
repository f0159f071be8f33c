package interop

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

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

// A claim counts only if it was tried and held.
func TestTable(t *testing.T) {
	for name, test := range map[string]struct {
		result
		ok   bool
		want string
	}{
		"held":        {result{done: true, figure: "42 times\nand more"}, true, "✓  1  it works\n        42 times\n        and more"},
		"failed":      {result{done: true, err: errors.New("no")}, false, "✗  1  it works\n        no"},
		"not reached": {result{}, false, "✗  1  it works\n        not reached"},
		"skipped":     {result{done: true, skipped: "not claimed"}, true, "–  1  it works\n        not claimed"},
	} {
		var out strings.Builder
		c := &console{w: &out, start: time.Now()}
		if got := c.table([]*proof{{claim: "it works", result: test.result}}); got != test.ok || !strings.Contains(out.String(), test.want) {
			t.Errorf("%s: table = %t, want %t, with %q in:\n%s", name, got, test.ok, test.want, &out)
		}
	}
}

func TestStep(t *testing.T) {
	var out bytes.Buffer
	c := &console{w: &out, start: time.Now()}
	if got, err := c.step(t.Context(), "one thing", func(context.Context) (string, error) { return "figure", nil }); got != "figure" || err != nil {
		t.Errorf("step = %q, %v, want figure", got, err)
	}
	if _, err := c.step(t.Context(), "another", func(context.Context) (string, error) { return "", errors.New("broken") }); err == nil {
		t.Error("step that fails = nil, want its error")
	}
	for _, want := range []string{"one thing", "✓", "✗", `step "another" failed: broken`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output has no %q:\n%s", want, &out)
		}
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
	if err != nil || ok || !strings.Contains(out.String(), `three ztunnels" failed`) {
		t.Errorf("Run(/bin/false) = %t, %v, want false; it printed:\n%s", ok, err, &out)
	}
}
