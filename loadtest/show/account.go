package show

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
)

// trafficLabels are the labels of the traffic from shop to stock, as the
// documentation of Istio's standard metrics names them.
func (w *world) trafficLabels(reporter string) map[string]string {
	labels := map[string]string{
		"reporter": reporter, "request_protocol": "tcp", "response_flags": "-", "connection_security_policy": "mutual_tls",
		"destination_service": serviceHost, "destination_service_name": "keeper", "destination_service_namespace": w.keeper.ID.Namespace,
	}
	for side, p := range map[string]*cluster.Pod{"source": w.shopper, "destination": w.keeper} {
		name := p.ID.ServiceAccount
		maps.Copy(labels, map[string]string{
			side + "_workload": name, side + "_workload_namespace": p.ID.Namespace, side + "_principal": p.ID.String(),
			side + "_app": name, side + "_version": cluster.Revision, side + "_cluster": cluster.ID,
			side + "_canonical_service": name, side + "_canonical_revision": cluster.Revision,
		})
	}
	return labels
}

// account compares the metrics of both sides with what was sent. A ztunnel may
// count an end a little later than its peer sees it.
func (w *world) account(ctx context.Context) (figure string, err error) {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	err = app.Retry(ctx, pollEvery, func() (err error) {
		figure, err = w.accountNow(ctx)
		return err
	})
	return figure, err
}

func (w *world) accountNow(ctx context.Context) (string, error) {
	if len(w.sent) == 0 {
		return "", errNoTraffic
	}
	request, response := w.totals()
	checked := 0
	for reporter, p := range map[string]*cluster.Pod{"source": w.shopper, "destination": w.keeper} {
		labels := w.trafficLabels(reporter)
		told, err := w.scrape(ctx, metricsOf(w.of(p))[0])
		if err != nil {
			return "", err
		}
		for family, want := range map[string]int{
			"istio_tcp_connections_opened_total": len(w.sent), "istio_tcp_connections_closed_total": len(w.sent),
			"istio_tcp_received_bytes_total": request, "istio_tcp_sent_bytes_total": response,
		} {
			found := told.find(family, labels)
			if len(found) != 1 || sum(found) != float64(want) {
				return "", fmt.Errorf("%s of reporter %s: %d series with the labels of this traffic, value %v, want 1 series, value %d; there are:\n%s",
					family, reporter, len(found), sum(found), want, told.show(family, labels))
			}
			for name, value := range labelsOf(found[0]) {
				if value == "" {
					return "", fmt.Errorf("%s of reporter %s: label %s is empty", family, reporter, name)
				}
			}
		}
		checked = len(labels)
	}
	return fmt.Sprintf("both reporters: %d connections opened and closed, %d bytes received, %d sent, exactly as sent; %d labels as expected, mutual_tls",
		len(w.sent), request, response, checked), nil
}

// show tells how the series of a family differ from the labels.
func (m metrics) show(family string, want map[string]string) string {
	var out strings.Builder
	for _, metric := range m[family].GetMetric() {
		labels := labelsOf(metric)
		fmt.Fprintf(&out, "  value %v, but", sum([]*dto.Metric{metric}))
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if labels[name] != want[name] {
				fmt.Fprintf(&out, " %s=%q", name, labels[name])
			}
		}
		out.WriteString("\n")
	}
	return out.String()
}
