package dashboards

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"ztunnel/proxy/needs"
)

// run writes a file for promtool and runs it.
func run(t *testing.T, content any, command ...string) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "queries.yaml")
	out, err := yaml.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.CommandContext(t.Context(), needs.Promtool(t), append(command, file)...).CombinedOutput(); err != nil {
		return fmt.Errorf("promtool %s: %w\n%s", strings.Join(command, " "), err, output)
	}
	return nil
}

// filled is a query with what Grafana puts in place of variables.
func filled(expr string) string {
	return strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h", "$pod", "ztunnel-.*", "$node", ".*").Replace(expr)
}

// A rule is what promtool calls a query.
type rule struct {
	Record string `yaml:"record"`
	Expr   string `yaml:"expr"`
}

func checkParses(t *testing.T, exprs ...string) error {
	t.Helper()
	var rules []rule
	for i, expr := range exprs {
		rules = append(rules, rule{fmt.Sprintf("query:%d", i), filled(expr)})
	}
	return run(t, map[string]any{"groups": []any{map[string]any{"name": "queries", "rules": rules}}}, "check", "rules")
}

func TestQueriesParse(t *testing.T) {
	var exprs []string
	for _, p := range load(t).shown() {
		for _, q := range p.Targets {
			exprs = append(exprs, q.Expr)
		}
	}
	if err := checkParses(t, exprs...); err != nil {
		t.Error(err)
	}
	if checkParses(t, `sum(istio_build{pod=~"$pod"}`) == nil {
		t.Error("promtool accepts a query without its last bracket: it checks nothing")
	}
}

// input is a series of promtool's tests.
type input struct {
	Series string `yaml:"series"`
	Values string `yaml:"values"`
}

// steady turns a scrape into series: gauges stay as they are, counters grow by
// one a minute.
func steady(t *testing.T, path, pod string) []input {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	counter := regexp.MustCompile(`_(total|bucket|sum|count)$`)
	var inputs []input
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		name, labels, _ := strings.Cut(line[:max(at, 0)], "{")
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			t.Fatalf("%s: line %q: %v", path, line, err)
		}
		step := "+0x15"
		if counter.MatchString(name) {
			step = "+1x15"
		}
		inputs = append(inputs, input{
			Series: fmt.Sprintf(`%s{app="ztunnel",node="n-%s",pod=%q,%s`, name, pod, pod, cmp.Or(labels, "}")),
			Values: strconv.FormatFloat(value, 'f', -1, 64) + step,
		})
	}
	return inputs
}

type (
	expectation struct {
		Expr     string   `yaml:"expr"`
		EvalTime string   `yaml:"eval_time"`
		Samples  []sample `yaml:"exp_samples"`
	}
	sample struct {
		Labels string  `yaml:"labels"`
		Value  float64 `yaml:"value"`
	}
)

// recordings are scrapes of four ztunnels: those of a client and of a server
// under traffic of all kinds (mTLS, plaintext, denied, refused, to outside of
// the mesh, readers of metrics), one alone, with TELEMETRY_EXPOSURE=both and a
// collector that is down, and one of a node in shared mode, with XDS_ON_DEMAND,
// revocation lists and a stream to the control plane that was cut once. Comments
// are left out.
var recordings = []string{"client", "server", "alone", "node"}

// Every query finds samples in what ztunnels have told.
func TestQueriesFindSamples(t *testing.T) {
	var series []input
	for _, name := range recordings {
		series = append(series, steady(t, "testdata/"+name+".prom", "ztunnel-"+name)...)
	}
	find := func(exprs ...string) error {
		var expected []expectation
		for _, expr := range exprs {
			expected = append(expected, expectation{"count(" + filled(expr) + ") > bool 0", "10m", []sample{{"{}", 1}}})
		}
		return run(t, map[string]any{"evaluation_interval": "1m", "tests": []any{
			map[string]any{"interval": "1m", "input_series": series, "promql_expr_test": expected},
		}}, "test", "rules")
	}
	var exprs []string
	for _, p := range load(t).shown() {
		for _, q := range p.Targets {
			exprs = append(exprs, q.Expr)
		}
	}
	if err := find(exprs...); err != nil {
		t.Error(err)
	}
	if find(`istio_build{component="envoy"}`) == nil {
		t.Error("promtool finds samples of a build that is not there: it checks nothing")
	}
}
