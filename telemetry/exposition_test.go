package telemetry

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// odd reports one metric of each kind with odd names and values.
func odd(t *testing.T, meter metric.Meter) {
	t.Helper()
	labels := metric.WithAttributes(attribute.String("text", "a\\b\"c\nd é"), attribute.Int("number", 7), attribute.Bool("flag", true))
	h, err := meter.Float64Histogram("istio_odd_seconds", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(0.005, 1, 10), metric.WithDescription(`a "quoted" \ help`))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []float64{0.001, 0.5, 1, 7, 1e9} {
		h.Record(t.Context(), v, labels)
	}
	ud, err := meter.Int64UpDownCounter("istio_odd_count")
	if err != nil {
		t.Fatal(err)
	}
	ud.Add(t.Context(), -5)
	g, err := meter.Float64Gauge("istio_odd_gauge")
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range []float64{math.Inf(1), math.Inf(-1), math.NaN(), 0.1, 1e21, -3} {
		g.Record(t.Context(), v, metric.WithAttributes(attribute.Int("i", i)))
	}
	f, err := meter.Float64Counter("istio_odd_total", metric.WithUnit("By"))
	if err != nil {
		t.Fatal(err)
	}
	f.Add(t.Context(), 2.5, labels)
}

const wantOdd = `# HELP istio_odd_count (unstable)
# TYPE istio_odd_count gauge
istio_odd_count -5
# HELP istio_odd_gauge (unstable)
# TYPE istio_odd_gauge gauge
istio_odd_gauge{i="0"} +Inf
istio_odd_gauge{i="1"} -Inf
istio_odd_gauge{i="2"} NaN
istio_odd_gauge{i="3"} 0.1
istio_odd_gauge{i="4"} 1e+21
istio_odd_gauge{i="5"} -3
# HELP istio_odd_seconds a "quoted" \\ help (unstable)
# TYPE istio_odd_seconds histogram
istio_odd_seconds_bucket{flag="true",number="7",text="a\\b\"c\nd é",le="0.005"} 1
istio_odd_seconds_bucket{flag="true",number="7",text="a\\b\"c\nd é",le="1"} 3
istio_odd_seconds_bucket{flag="true",number="7",text="a\\b\"c\nd é",le="10"} 4
istio_odd_seconds_bucket{flag="true",number="7",text="a\\b\"c\nd é",le="+Inf"} 5
istio_odd_seconds_sum{flag="true",number="7",text="a\\b\"c\nd é"} 1.000000008501e+09
istio_odd_seconds_count{flag="true",number="7",text="a\\b\"c\nd é"} 5
# HELP istio_odd_total (unstable)
# TYPE istio_odd_total counter
istio_odd_total{flag="true",number="7",text="a\\b\"c\nd é"} 2.5
`

// Names, units, values and labels come out as the instruments have them.
func TestExposition(t *testing.T) {
	tel := setup(t, Config{})
	odd(t, tel.Meter("x"))
	var got strings.Builder
	for line := range strings.Lines(scrape(t, tel).Body.String()) {
		if strings.Contains(line, "istio_odd") {
			got.WriteString(line)
		}
	}
	if diff := cmp.Diff(strings.Split(wantOdd, "\n"), strings.Split(got.String(), "\n")); diff != "" {
		t.Errorf("scrape, want (-) and got (+):\n%s", diff)
	}
	const want = `# HELP istio_odd_seconds a \"quoted\" \\ help (unstable)` + "\n"
	if body := scrape(t, tel, "Accept", "application/openmetrics-text").Body.String(); !strings.Contains(body, want) {
		t.Errorf("OpenMetrics has no line %s", want)
	}
}

// A family that two scopes report is declared once, with one HELP; a scope that
// disagrees about the type is left out, and so is a label that no scrape could
// show. The rest is there.
func TestExposition_Conflicts(t *testing.T) {
	tel := setup(t, Config{})
	for i, scope := range []string{"a", "b"} {
		c, err := tel.Meter(scope).Int64Counter("istio_twice_total", metric.WithDescription("help of "+scope))
		if err != nil {
			t.Fatal(err)
		}
		c.Add(t.Context(), int64(i+1), metric.WithAttributes(attribute.String("scope", scope)))
	}
	c, err := tel.Meter("c").Int64Counter("istio_invalid_total")
	if err != nil {
		t.Fatal(err)
	}
	c.Add(t.Context(), 1, metric.WithAttributes(attribute.String("l", "a\xff")))
	c.Add(t.Context(), 1, metric.WithAttributes(attribute.String("l", "b")))
	scrape(t, tel) // the type of the first collection holds; within one the order of scopes is random
	g, err := tel.Meter("d").Int64Gauge("istio_twice_total")
	if err != nil {
		t.Fatal(err)
	}
	g.Record(t.Context(), 9)
	body := scrape(t, tel).Body.String()
	for _, want := range []string{
		"# TYPE istio_twice_total counter\nistio_twice_total{scope=\"a\"} 1\nistio_twice_total{scope=\"b\"} 2\n",
		"# TYPE istio_invalid_total counter\nistio_invalid_total{l=\"b\"} 1\n",
		"\nistio_build{",
	} {
		if strings.Count(body, want) != 1 {
			t.Errorf("want once %s, got\n%s", want, body)
		}
	}
	if strings.Count(body, "# HELP istio_twice_total ") != 1 || strings.Contains(body, "\nistio_twice_total 9\n") {
		t.Errorf("want one HELP and no gauge of istio_twice_total, got\n%s", body)
	}
}
