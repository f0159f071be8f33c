package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"ztunnel/loadtest/mesh"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// auditMetric counts who has read telemetry.
const auditMetric = "istio_ztunnel_telemetry_requests_total"

// metrics is what one ztunnel told.
type metrics map[string]*dto.MetricFamily

// scrape reads metrics as Prometheus does: plain HTTP, out of its pod.
func (w *world) scrape(ctx context.Context, addr netip.AddrPort) (metrics, error) {
	client := w.prometheus.pod.HTTP()
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
		total += c.GetCounter().GetValue()
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
func (m metrics) audited(m2 *member, code string) float64 {
	return sum(m.find(auditMetric, map[string]string{
		"peer_identity": m2.id.String(), "surface": "metrics", "code": code, "transport": "hbone",
	}))
}

// read reads the metrics of the stock's ztunnel with the identity of Prometheus.
func (w *world) read(ctx context.Context) (string, error) {
	start := time.Now()
	var last metrics
	addrs := metricsOf(w.server.pod)
	for range 2 { // the audit counts a read when it is over
		for _, addr := range addrs {
			var err error
			if last, err = w.scrape(ctx, addr); err != nil {
				return "", err
			}
		}
	}
	elapsed := time.Since(start) / time.Duration(2*len(addrs))
	counted, want := last.audited(w.prometheus, "200"), float64(2*len(addrs)-1)
	if counted != want {
		return "", fmt.Errorf("%s{code=200} counts %v reads of %s, want %v", auditMetric, counted, w.prometheus.id, want)
	}
	line, err := w.awaitLine(ctx, w.server, "telemetry", "read", map[string]string{"src.identity": w.prometheus.id.String(), "status": "200"})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("HTTP 200, %d series, %s a read; audited: %s, %v reads before this one, last with %s bytes",
		last.series(), took(elapsed), w.prometheus.id, counted, line.fields["bytes_sent"]), nil
}

// readAsStranger tries the same with an identity that no policy allows.
func (w *world) readAsStranger(ctx context.Context) (string, error) {
	before := w.stranger.zt.Log.Len()
	var slowest time.Duration
	addrs := metricsOf(w.server.pod)
	for _, addr := range addrs {
		took, err := unanswered(ctx, w.stranger.pod.Namespace, addr)
		if err != nil {
			return "", err
		}
		slowest = max(slowest, took)
	}
	own, err := w.awaitLineSince(ctx, w.stranger, before, "access", "connection complete", nil)
	if err != nil {
		return "", err
	}
	const want = "http status: 401 Unauthorized"
	if own.fields["error"] != want {
		return "", fmt.Errorf("the stranger's ztunnel logs error %q, want %q", own.fields["error"], want)
	}
	line, err := w.awaitLine(ctx, w.server, "telemetry", "read denied", map[string]string{"src.identity": w.stranger.id.String()})
	if err != nil {
		return "", err
	}
	told, err := w.scrape(ctx, addrs[0])
	if err != nil {
		return "", err
	}
	if counted := told.audited(w.stranger, "401"); counted != float64(len(addrs)) {
		return "", fmt.Errorf("%s{code=401} counts %v reads of %s, want %d", auditMetric, counted, w.stranger.id, len(addrs))
	}
	return fmt.Sprintf("%d tries, 0 bytes, closed within %s (CONNECT: 401); audited: %s, code 401, %d\nlog: read denied … error=%q",
		len(addrs), took(slowest), w.stranger.id, len(addrs), line.fields["error"]), nil
}

// readInPlaintext tries from outside of the mesh, and inside of each pod.
func (w *world) readInPlaintext(ctx context.Context) (string, error) {
	addrs := metricsOf(w.server.pod)
	for _, addr := range addrs {
		if _, err := unanswered(ctx, w.outsider.Namespace, addr); err != nil {
			return "", err
		}
	}
	for _, m := range w.members() {
		for _, table := range []string{"tcp", "tcp6"} {
			listens, err := listensAt(fmt.Sprintf("/proc/%d/net/%s", m.zt.PID(), table), mesh.MetricsPort)
			if err != nil {
				return "", err
			}
			if listens {
				return "", fmt.Errorf("in pod %s a socket listens at port %d", m.name, mesh.MetricsPort)
			}
		}
		c, err := m.pod.Dial(ctx, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), mesh.MetricsPort))
		if err == nil {
			c.Close()
			err = errors.New("it connects")
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return "", fmt.Errorf("in pod %s, dial 127.0.0.1:%d, want connection refused: %w", m.name, mesh.MetricsPort, err)
		}
	}
	return fmt.Sprintf("from outside: %d tries, 0 bytes, closed; inside of %d pods: 127.0.0.1:%d connection refused, no listener in the kernel's table",
		len(addrs), len(w.members()), mesh.MetricsPort), nil
}

// listensAt tells whether a socket in a table of /proc/PID/net listens at a port.
func listensAt(table string, port uint16) (bool, error) {
	f, err := os.Open(table)
	if errors.Is(err, os.ErrNotExist) && strings.HasSuffix(table, "6") {
		return false, nil // no IPv6
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	const listening = "0A"
	suffix := fmt.Sprintf(":%04X", port)
	lines, sockets := bufio.NewScanner(f), 0
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 {
			continue
		}
		sockets++
		if fields[3] == listening && strings.HasSuffix(fields[1], suffix) {
			return true, nil
		}
	}
	if sockets == 0 {
		return false, fmt.Errorf("%s is empty", table)
	}
	return false, lines.Err()
}
