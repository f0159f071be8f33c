package promqlcheck

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var rules = Rules{TargetLabels: []string{"pod"}}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name, expr string
		want       string // part of the only error, empty for none
	}{
		{"gauge", `process_open_fds{pod=~"a|b"}`, ""},
		{"counter", `sum by (response_flags, pod) (rate(istio_tcp_connections_closed_total{reporter!="source"}[5m]))`, ""},
		{"variable as range", `sum(increase(istio_ztunnel_panics_total[$__range])) # all of them`, ""},
		{"two sides", `process_open_fds / on (pod) group_left process_max_fds > bool 0.8`, ""},
		{"histogram", `histogram_quantile(0.99, sum by (le, result) (rate(istio_ztunnel_csr_duration_seconds_bucket[5m])))`, ""},
		{"sum of a summary", `rate(go_gc_duration_seconds_sum[5m])`, ""},
		{"scraped", `up{pod="x"} == 0`, ""},
		{"offset", `rate(istio_ztunnel_panics_total[5m] offset 1d) > -1`, ""},
		{"brace in a string", `istio_build{tag=~"}(\"["}`, ""},

		{"unknown metric", `process_closed_fds`, "unknown metric process_closed_fds"},
		{"bare histogram", `istio_ztunnel_csr_duration_seconds`, "unknown metric"},
		{"unknown label", `process_open_fds{reporter="source"}`, "process_open_fds has no label reporter"},
		{"unknown label of a grouping", `sum by (reporter) (process_open_fds)`, "by (reporter)"},
		{"label of another argument", `sum by (tag) (process_open_fds) + sum(istio_build)`, "by (tag)"},
		{"label of a matching", `process_open_fds / on (reporter) process_max_fds`, "on (reporter)"},
		{"bare counter", `istio_ztunnel_panics_total`, "outside rate and increase"},
		{"counter in another function", `sum(istio_ztunnel_panics_total)`, "outside rate and increase"},
		{"rate around a sum", `rate(sum(istio_ztunnel_panics_total))`, "outside rate and increase"},
		{"rate of an instant", `rate(istio_ztunnel_panics_total)`, "without a range"},
		{"rate of a gauge", `rate(process_open_fds[5m])`, "no counter"},
		{"unknown function", `ratio(process_open_fds[5m])`, "unknown function ratio"},
		{"grouping behind", `sum(process_open_fds) by (pod)`, "write it before"},
		{"subquery", `max_over_time(process_open_fds[5m:1m])`, "want one duration"},
		{"missing bracket", `sum(process_open_fds`, "ends early"},
		{"bracket too many", `sum(process_open_fds))`, "too many"},
		{"crossed brackets", `process_open_fds{pod="a")`, "no condition"},
		{"open string", `process_open_fds{pod="a}`, "no end"},
		{"no value", `process_open_fds{pod=}`, "no condition"},
		{"function without arguments", `sum by (pod)`, "ends early"},
		{"function beside its argument", `rate istio_ztunnel_panics_total[5m]`, "want its arguments"},
		{"no metric", `vector(0)`, "no metric"},
		{"range of nothing", `(process_open_fds)[5m]`, "without a metric"},
		{"strange character", `process_open_fds & 1`, "unexpected character"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, errs := rules.Check(tt.expr)
			switch {
			case tt.want == "" && len(errs) > 0:
				t.Errorf("Check(%s) = %v, want no error", tt.expr, errs)
			case tt.want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), tt.want)):
				t.Errorf("Check(%s) = %v, want one error with %q", tt.expr, errs, tt.want)
			}
		})
	}
}

func TestScan(t *testing.T) {
	got, err := Scan(`sum by (pod) (rate(a_total{x="1",y!~"2|3"}[$__rate_interval])) / ignoring (z) b`)
	if err != nil {
		t.Fatal(err)
	}
	want := &Expr{
		Selectors: []Selector{
			{Metric: "a_total", Matchers: []Matcher{{"x", "=", "1"}, {"y", "!~", "2|3"}}, Range: "$__rate_interval", Function: "rate"},
			{Metric: "b"},
		},
		Groupings: []Grouping{
			{Keyword: "by", Labels: []string{"pod"}, Selectors: []int{0}},
			{Keyword: "ignoring", Labels: []string{"z"}, Selectors: []int{0, 1}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Scan, want (-) and got (+):\n%s", diff)
	}
}

func TestLabels(t *testing.T) {
	for _, tt := range []struct {
		expr string
		want []string
	}{
		{`process_open_fds`, nil},
		{`sum(istio_build)`, nil},
		{`istio_build * 1`, []string{"component", "tag"}},
		{`count by (tag) (istio_build)`, []string{"tag"}},
	} {
		e, errs := rules.Check(tt.expr)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		if diff := cmp.Diff(tt.want, e.Labels()); diff != "" {
			t.Errorf("Labels of %s, want (-) and got (+):\n%s", tt.expr, diff)
		}
	}
}
