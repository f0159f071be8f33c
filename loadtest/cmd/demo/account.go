package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ztunnel/loadtest/mesh"
)

var errNoTraffic = errors.New("there was no traffic to look at")

// trafficLabels are the labels of the traffic from shop to stock, as the
// documentation of Istio's standard metrics names them.
func (w *world) trafficLabels(reporter string) map[string]string {
	labels := map[string]string{
		"reporter": reporter, "request_protocol": "tcp", "response_flags": "-", "connection_security_policy": "mutual_tls",
		"destination_service": serviceHost, "destination_service_name": "keeper", "destination_service_namespace": w.server.id.Namespace,
	}
	for side, m := range map[string]*member{"source": w.client, "destination": w.server} {
		name := m.id.ServiceAccount
		maps.Copy(labels, map[string]string{
			side + "_workload": name, side + "_workload_namespace": m.id.Namespace, side + "_principal": m.id.String(),
			side + "_app": name, side + "_version": revision, side + "_cluster": cluster,
			side + "_canonical_service": name, side + "_canonical_revision": revision,
		})
	}
	return labels
}

// account compares the metrics of both sides with what was sent.
func (w *world) account(ctx context.Context) (string, error) {
	if len(w.sent) == 0 {
		return "", errNoTraffic
	}
	request, response := w.totals()
	checked := 0
	for reporter, m := range map[string]*member{"source": w.client, "destination": w.server} {
		labels := w.trafficLabels(reporter)
		told, err := w.scrape(ctx, metricsOf(m.pod)[0])
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
		fmt.Fprintf(&out, "  value %v, but", metric.GetCounter().GetValue())
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if labels[name] != want[name] {
				fmt.Fprintf(&out, " %s=%q", name, labels[name])
			}
		}
		out.WriteString("\n")
	}
	return out.String()
}

// logLine is a line of ztunnel's log.
type logLine struct {
	level, scope, message string
	fields                map[string]string
}

// parseLine reads time, level, scope, message and fields, with tabs between.
func parseLine(text string) (logLine, bool) {
	columns := strings.SplitN(text, "\t", 5)
	if len(columns) < 4 {
		return logLine{}, false
	}
	line := logLine{level: columns[1], scope: columns[2], message: columns[3], fields: map[string]string{}}
	if len(columns) == 4 {
		return line, true
	}
	for rest := columns[4]; rest != ""; rest = strings.TrimPrefix(rest, " ") {
		name, value, ok := strings.Cut(rest, "=")
		if !ok {
			return logLine{}, false
		}
		if quoted, err := strconv.QuotedPrefix(value); err == nil {
			line.fields[name], err = strconv.Unquote(quoted)
			if err != nil {
				return logLine{}, false
			}
			rest = value[len(quoted):]
			continue
		}
		line.fields[name], rest, _ = strings.Cut(value, " ")
	}
	return line, true
}

// awaitLine waits for a line with the given fields among others.
func (w *world) awaitLine(ctx context.Context, m *member, scope, message string, fields map[string]string) (logLine, error) {
	return w.awaitLineSince(ctx, m, 0, scope, message, fields)
}

func (w *world) awaitLineSince(ctx context.Context, m *member, since int, scope, message string, fields map[string]string) (line logLine, err error) {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	_, err = m.zt.Log.Await(ctx, since, func(text string) (ok bool) {
		line, ok = parseLine(text)
		ok = ok && line.scope == scope && line.message == message
		for name, value := range fields {
			ok = ok && line.fields[name] == value
		}
		return ok
	})
	if err != nil {
		return logLine{}, fmt.Errorf("no line %q of scope %s with %v in the log of %s: %w", message, scope, fields, m.name, err)
	}
	return line, nil
}

// logs checks the access log lines of one connection.
func (w *world) logs(ctx context.Context) (string, error) {
	at := slices.IndexFunc(w.sent, func(e exchange) bool { return e.request == loggedSize })
	if at < 0 {
		return "", errNoTraffic
	}
	e := w.sent[at]
	request, response := strconv.Itoa(e.request), strconv.Itoa(e.response)
	hbone := netip.AddrPortFrom(w.server.pod.Addr, mesh.HBONEPort).String()
	common := map[string]string{
		"src.workload": w.client.name, "src.namespace": w.client.id.Namespace, "src.identity": w.client.id.String(), "src.cluster": cluster,
		"dst.addr": hbone, "dst.hbone_addr": netip.AddrPortFrom(w.server.pod.Addr, echoTarget).String(), "dst.service": serviceHost,
		"dst.workload": w.server.name, "dst.namespace": w.server.id.Namespace, "dst.identity": w.server.id.String(), "dst.cluster": cluster,
	}
	count, durations := 0, []string{}
	for _, side := range []struct {
		m                         *member
		src, direction, sent, got string
	}{
		{w.client, e.local.String(), "outbound", request, response},
		{w.server, "", "inbound", response, request},
	} {
		line, err := w.awaitLine(ctx, side.m, "access", "connection complete", map[string]string{
			"direction": side.direction, "bytes_sent": side.sent, "bytes_recv": side.got, "dst.addr": hbone,
		})
		if err != nil {
			return "", err
		}
		want := maps.Clone(common)
		if side.src != "" {
			want["src.addr"] = side.src
		}
		for name, value := range want {
			if line.fields[name] != value {
				return "", fmt.Errorf("access log of %s: %s=%q, want %q", side.m.name, name, line.fields[name], value)
			}
		}
		if from, err := netip.ParseAddrPort(line.fields["src.addr"]); err != nil || from.Addr() != w.client.pod.Addr {
			return "", fmt.Errorf("access log of %s: src.addr=%q, want %s", side.m.name, line.fields["src.addr"], w.client.pod.Addr)
		}
		if line.level != "info" || line.fields["error"] != "" {
			return "", fmt.Errorf("access log of %s: level %s, error %q, want info without error", side.m.name, line.level, line.fields["error"])
		}
		count += len(line.fields)
		durations = append(durations, line.fields["duration"])
	}
	return fmt.Sprintf("%d fields of 2 lines; %s → %s, %s bytes there and %s back, %s as the source saw it, %s at the destination",
		count, w.client.id, w.server.id, request, response, durations[0], durations[1]), nil
}
