// Package catalog is the one list of the metrics that this binary emits: name,
// type, unit, labels, help, and whether the name is a promise. The packages
// that count take names and help from it, dashboards and alerts are tested
// against it, and a golden file makes every change to it visible in a review.
// It imports nothing of this module and holds no state.
package catalog

import (
	"slices"
	"strings"
)

// Type is the type of a metric as a scrape declares it.
type Type string

// The types.
const (
	Counter   Type = "counter"
	Gauge     Type = "gauge"
	Histogram Type = "histogram"
	Summary   Type = "summary"
)

// Metric is one family.
type Metric struct {
	// Name is the name of the series as PromQL sees it, with _total.
	Name string
	Type Type
	// Unit is the base unit in the notation of OpenTelemetry (By, s), empty
	// for plain counts.
	Unit string
	// Labels are the label names in the order in which documents list them;
	// exposition sorts them.
	Labels []string
	// Help says what is counted, without a full stop.
	Help string
	// Stable says that the name and the labels are a promise. The HELP line
	// of every other family has the word "unstable", as the reference's has.
	Stable bool
}

// HelpLine is the text of the HELP line.
func (m Metric) HelpLine() string {
	if m.Stable {
		return m.Help
	}
	return m.Help + " (unstable)"
}

// All returns every metric, sorted by name.
func All() []Metric {
	all := unsorted()
	slices.SortFunc(all, func(a, b Metric) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func unsorted() []Metric {
	return slices.Concat(traffic(), ownSeries(), build(), process(), goRuntime(), logging(), surface(), node(), crl(), hbone(), dns(), inpod(), xds())
}

// Find returns the metric of that name, and whether there is one.
func Find(name string) (Metric, bool) {
	for _, m := range unsorted() {
		if m.Name == name {
			return m, true
		}
	}
	return Metric{}, false
}

// Help returns the HELP line of the metric of that name, for the description
// of its instrument. It is empty for a name that is not in the catalog, which
// the completeness test of a scrape reports.
func Help(name string) string {
	m, ok := Find(name)
	if !ok {
		return ""
	}
	return m.HelpLine()
}
