package dashboards

import "strings"

// The functions below write PromQL, so that names of metrics come from the
// catalog and every selector is limited to the chosen pods. Other processes of
// a mesh (waypoints, sidecars) have series of the same names.

// of selects the series of a metric.
func of(metric string, matchers ...string) string {
	return metric + "{" + strings.Join(append([]string{`pod=~"$pod"`}, matchers...), ",") + "}"
}

// rate is the speed of a counter.
func rate(counter string, matchers ...string) string {
	return "rate(" + of(counter, matchers...) + "[$__rate_interval])"
}

// increase is what a counter has counted in the time shown.
func increase(counter string, matchers ...string) string {
	return "increase(" + of(counter, matchers...) + "[$__range])"
}

// aggregate is an aggregation, over everything if labels is empty.
func aggregate(how, labels, expr string) string {
	if labels == "" {
		return how + "(" + expr + ")"
	}
	return how + " by (" + labels + ") (" + expr + ")"
}

func sum(labels, expr string) string   { return aggregate("sum", labels, expr) }
func least(labels, expr string) string { return aggregate("min", labels, expr) }
func most(labels, expr string) string  { return aggregate("max", labels, expr) }
func count(labels, expr string) string { return aggregate("count", labels, expr) }

// top are the highest values.
func top(n, expr string) string { return "topk(" + n + ", " + expr + ")" }

// orZero is 0 where expr, one value without labels, has none: a counter with
// labels has no series before its first event.
func orZero(expr string) string { return "(" + expr + " or vector(0))" }

// percentile99 is the duration that 99 % of a histogram stay below.
func percentile99(labels, histogram string) string {
	by := "le"
	if labels != "" {
		by += ", " + labels
	}
	return "histogram_quantile(0.99, " + sum(by, rate(histogram+"_bucket")) + ")"
}
