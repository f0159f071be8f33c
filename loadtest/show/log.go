package show

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
)

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
func (w *world) awaitLine(ctx context.Context, z *cluster.Ztunnel, scope, message string, fields map[string]string) (logLine, error) {
	return w.awaitLineSince(ctx, z, 0, scope, message, fields)
}

func (w *world) awaitLineSince(ctx context.Context, z *cluster.Ztunnel, since int, scope, message string, fields map[string]string) (line logLine, err error) {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	_, err = z.Log.Await(ctx, since, func(text string) (ok bool) {
		line, ok = parseLine(text)
		ok = ok && line.scope == scope && line.message == message
		for name, value := range fields {
			ok = ok && line.fields[name] == value
		}
		return ok
	})
	if err != nil {
		return logLine{}, fmt.Errorf("no line %q of scope %s with %v in the log of %s: %w", message, scope, fields, z.Name, err)
	}
	return line, nil
}

// logs checks the access log lines of one connection.
func (w *world) logs(ctx context.Context) (string, error) {
	at := slices.IndexFunc(w.sent, func(e app.Exchange) bool { return e.Request == loggedSize })
	if at < 0 {
		return "", errNoTraffic
	}
	e := w.sent[at]
	request, response := strconv.Itoa(e.Request), strconv.Itoa(e.Response)
	hbone := netip.AddrPortFrom(w.keeper.Addr, mesh.HBONEPort).String()
	common := map[string]string{
		"src.workload": w.shopper.Name, "src.namespace": w.shopper.ID.Namespace, "src.identity": w.shopper.ID.String(), "src.cluster": cluster.ID,
		"dst.addr": hbone, "dst.hbone_addr": netip.AddrPortFrom(w.keeper.Addr, echoTarget).String(), "dst.service": serviceHost,
		"dst.workload": w.keeper.Name, "dst.namespace": w.keeper.ID.Namespace, "dst.identity": w.keeper.ID.String(), "dst.cluster": cluster.ID,
	}
	count, durations := 0, []string{}
	for _, side := range []struct {
		p                         *cluster.Pod
		src, direction, sent, got string
	}{
		{w.shopper, e.Local.String(), "outbound", request, response},
		{w.keeper, "", "inbound", response, request},
	} {
		line, err := w.awaitLine(ctx, w.of(side.p), "access", "connection complete", map[string]string{
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
				return "", fmt.Errorf("access log of %s: %s=%q, want %q", side.p.Name, name, line.fields[name], value)
			}
		}
		if from, err := netip.ParseAddrPort(line.fields["src.addr"]); err != nil || from.Addr() != w.shopper.Addr {
			return "", fmt.Errorf("access log of %s: src.addr=%q, want %s", side.p.Name, line.fields["src.addr"], w.shopper.Addr)
		}
		if line.level != "info" || line.fields["error"] != "" {
			return "", fmt.Errorf("access log of %s: level %s, error %q, want info without error", side.p.Name, line.level, line.fields["error"])
		}
		count += len(line.fields)
		durations = append(durations, line.fields["duration"])
	}
	return fmt.Sprintf("%d fields of 2 lines; %s → %s, %s bytes there and %s back, %s as the source saw it, %s at the destination",
		count, w.shopper.ID, w.keeper.ID, request, response, durations[0], durations[1]), nil
}
