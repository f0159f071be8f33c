package promqlcheck

import (
	"fmt"
	"slices"
	"strings"

	"ztunnel/telemetry/catalog"
)

// Scraped are the metrics that Prometheus makes for each target itself.
var Scraped = []string{"up"}

// Rules say what an expression may use beside the catalog.
type Rules struct {
	// TargetLabels are the labels that the scrape adds to every series.
	TargetLabels []string
}

// Check scans an expression and returns what it uses and everything that is
// wrong with it: unknown metrics and labels, a counter outside rate and
// increase, a gauge inside.
func (r Rules) Check(expr string) (*Expr, []error) {
	e, err := Scan(expr)
	if err != nil {
		return &Expr{}, []error{err}
	}
	var errs []error
	if len(e.Selectors) == 0 {
		errs = append(errs, fmt.Errorf("no metric in %s", expr))
	}
	for _, s := range e.Selectors {
		errs = append(errs, r.selector(s)...)
	}
	for _, g := range e.Groupings {
		for _, label := range g.Labels {
			if !slices.ContainsFunc(g.Selectors, func(i int) bool { return r.hasLabel(e.Selectors[i].Metric, label) }) {
				errs = append(errs, fmt.Errorf("%s (%s): no metric there has this label", g.Keyword, label))
			}
		}
	}
	return e, errs
}

func (r Rules) selector(s Selector) []error {
	typ, _, ok := find(s.Metric)
	if !ok {
		return []error{fmt.Errorf("unknown metric %s", s.Metric)}
	}
	var errs []error
	for _, m := range s.Matchers {
		if !r.hasLabel(s.Metric, m.Label) {
			errs = append(errs, fmt.Errorf("%s has no label %s", s.Metric, m.Label))
		}
	}
	counts := s.Function == "rate" || s.Function == "increase"
	switch {
	case typ == catalog.Counter && !counts:
		errs = append(errs, fmt.Errorf("the counter %s stands outside rate and increase", s.Metric))
	case typ != catalog.Counter && counts:
		errs = append(errs, fmt.Errorf("%s of %s, which is no counter", s.Function, s.Metric))
	case counts && s.Range == "":
		errs = append(errs, fmt.Errorf("%s of %s without a range", s.Function, s.Metric))
	}
	return errs
}

func (r Rules) hasLabel(metric, label string) bool {
	_, labels, _ := find(metric)
	return slices.Contains(labels, label) || slices.Contains(r.TargetLabels, label)
}

// Labels returns the labels that a result can have beside the target's: those
// of the groupings if there is an aggregation, else those of the metrics.
func (e *Expr) Labels() []string {
	var labels []string
	aggregated := false
	for _, g := range e.Groupings {
		if g.Keyword == "by" {
			aggregated = true
			labels = append(labels, g.Labels...)
		}
	}
	for _, s := range e.Selectors {
		aggregated = aggregated || slices.Contains(aggregations, s.Function)
	}
	if !aggregated {
		for _, s := range e.Selectors {
			_, own, _ := find(s.Metric)
			labels = append(labels, own...)
		}
	}
	return labels
}

// find returns type and labels of a series. The parts of a histogram and of a
// summary count as counters.
func find(name string) (catalog.Type, []string, bool) {
	if slices.Contains(Scraped, name) {
		return catalog.Gauge, nil, true
	}
	if m, ok := catalog.Find(name); ok {
		switch m.Type {
		case catalog.Histogram:
			return "", nil, false // only its parts have samples
		case catalog.Summary:
			return catalog.Gauge, append(slices.Clone(m.Labels), "quantile"), true
		default:
			return m.Type, m.Labels, true
		}
	}
	for _, part := range []string{"_bucket", "_sum", "_count"} {
		base, ok := strings.CutSuffix(name, part)
		if !ok {
			continue
		}
		m, found := catalog.Find(base)
		switch {
		case found && m.Type == catalog.Histogram && part == "_bucket":
			return catalog.Counter, append(slices.Clone(m.Labels), "le"), true
		case found && (m.Type == catalog.Histogram || m.Type == catalog.Summary) && part != "_bucket":
			return catalog.Counter, m.Labels, true
		}
	}
	return "", nil, false
}
