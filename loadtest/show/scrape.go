package show

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
)

// auditMetric counts who has read telemetry.
const auditMetric = "istio_ztunnel_telemetry_requests_total"

// metrics is what one ztunnel told.
type metrics map[string]*dto.MetricFamily

// scrape reads metrics as Prometheus does: plain HTTP, out of its pod.
func (w *world) scrape(ctx context.Context, addr netip.AddrPort) (metrics, error) {
	client := w.prometheus.HTTP()
	defer client.CloseIdleConnections()
	status, body, err := mesh.Get(ctx, client, "http://"+addr.String()+"/metrics")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("metrics of %s: status %d", addr, status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("metrics of %s: %w", addr, err)
	}
	return families, nil
}

// series is the number of series.
func (m metrics) series() int {
	n := 0
	for _, family := range m {
		n += len(family.GetMetric())
	}
	return n
}

// find are the series of a family that have all of the given labels.
func (m metrics) find(family string, want map[string]string) []*dto.Metric {
	var found []*dto.Metric
	for _, metric := range m[family].GetMetric() {
		labels := labelsOf(metric)
		matches := true
		for name, value := range want {
			matches = matches && labels[name] == value
		}
		if matches {
			found = append(found, metric)
		}
	}
	return found
}

// sum is the sum of counters.
func sum(counters []*dto.Metric) (total float64) {
	for _, c := range counters {
		// A counter whose type the format does not tell is untyped.
		total += c.GetCounter().GetValue() + c.GetUntyped().GetValue()
	}
	return total
}

func labelsOf(m *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, pair := range m.GetLabel() {
		labels[pair.GetName()] = pair.GetValue()
	}
	return labels
}

// audited is how often an identity has read metrics with a status.
func (m metrics) audited(p *cluster.Pod, code string) float64 {
	return sum(m.find(auditMetric, map[string]string{
		"peer_identity": p.ID.String(), "surface": "metrics", "code": code, "transport": "hbone",
	}))
}
