package telemetry

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// sharing registers collectors so that the series of one scrape share equal
// labels. The exporter makes a new object for each label of each series, three
// kilobytes for a series of 27 labels, all of which live until they are written;
// but two series of the same pair of workloads differ in one label or none. What
// is left to hold is a tenth of that.
type sharing struct{ prometheus.Registerer }

// Register implements [prometheus.Registerer].
func (s sharing) Register(c prometheus.Collector) error {
	return s.Registerer.Register(sharingCollector{c})
}

type sharingCollector struct{ prometheus.Collector }

// Collect implements [prometheus.Collector].
func (c sharingCollector) Collect(ch chan<- prometheus.Metric) {
	labels := &labels{known: map[label]*dto.LabelPair{}}
	through(c.Collector.Collect, func(m prometheus.Metric) { ch <- &sharingMetric{m, labels} })
}

// sharingMetric is a metric that is written once.
type sharingMetric struct {
	prometheus.Metric
	labels *labels
}

// Write implements [prometheus.Metric].
func (m *sharingMetric) Write(out *dto.Metric) error {
	err := m.Metric.Write(out)
	m.labels.share(out.Label)
	return err
}

type label struct{ name, value string }

// labels are the labels of one scrape so far.
type labels struct {
	mu    sync.Mutex
	known map[label]*dto.LabelPair
	last  []*dto.LabelPair // of the series before
}

// share replaces each pair by the equal one that was there first.
func (l *labels) share(pairs []*dto.LabelPair) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, p := range pairs {
		is := label{p.GetName(), p.GetValue()}
		if i < len(l.last) && l.last[i].GetValue() == is.value && l.last[i].GetName() == is.name {
			pairs[i] = l.last[i]
			continue
		}
		if known := l.known[is]; known != nil {
			pairs[i] = known
		} else {
			l.known[is] = p
		}
	}
	l.last = pairs
}
