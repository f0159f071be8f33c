package show

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/console"
	"ztunnel/loadtest/mesh"
)

// read reads the metrics of both ztunnels with the identity of Prometheus. That
// of its own node is read through itself.
func (w *world) read(ctx context.Context) (string, error) {
	var figures []string
	for i, z := range w.ztunnels {
		figure, err := w.readOf(ctx, z)
		if err != nil {
			return "", err
		}
		figures = append(figures, w.nodes[i].Name+": "+figure)
	}
	return strings.Join(figures, "\n"), nil
}

func (w *world) readOf(ctx context.Context, z *cluster.Ztunnel) (string, error) {
	start := time.Now()
	var last metrics
	addrs := metricsOf(z)
	for range 2 { // the audit counts a read when it is over
		for _, addr := range addrs {
			var err error
			if last, err = w.scrape(ctx, addr); err != nil {
				return "", err
			}
		}
	}
	elapsed := time.Since(start) / time.Duration(2*len(addrs))
	figure := fmt.Sprintf("HTTP 200, %d series, %s a read", last.series(), console.Took(elapsed))
	if !w.claims {
		_, err := w.awaitLine(ctx, z, "access", "connection complete", map[string]string{
			"direction": "inbound", "src.identity": w.prometheus.ID.String(), "dst.hbone_addr": addrs[0].String(),
		})
		return figure, err
	}
	counted, want := last.audited(w.prometheus, "200"), float64(2*len(addrs)-1)
	if counted != want {
		return "", fmt.Errorf("%s{code=200} of %s counts %v reads of %s, want %v", auditMetric, z.Name, counted, w.prometheus.ID, want)
	}
	line, err := w.awaitLine(ctx, z, "telemetry", "read", map[string]string{"src.identity": w.prometheus.ID.String(), "status": "200"})
	if err != nil {
		return "", err
	}
	return figure + fmt.Sprintf("; audited: %s, %v reads before this one, last with %s bytes", w.prometheus.ID, counted, line.fields["bytes_sent"]), nil
}

// readAsStranger tries the same with an identity that no policy allows.
func (w *world) readAsStranger(ctx context.Context) (string, error) {
	var slowest time.Duration
	tries := 0
	for _, z := range w.ztunnels {
		for _, addr := range metricsOf(z) {
			before := w.of(w.stranger).Log.Len()
			took, err := unanswered(ctx, w.stranger.Namespace, addr)
			if err != nil {
				return "", err
			}
			slowest, tries = max(slowest, took), tries+1
			own, err := w.awaitLineSince(ctx, w.of(w.stranger), before, "access", "connection complete", map[string]string{
				"direction": "outbound", "src.identity": w.stranger.ID.String(),
			})
			if err != nil {
				return "", err
			}
			const want = "http status: 401 Unauthorized"
			if own.fields["error"] != want {
				return "", fmt.Errorf("the stranger's ztunnel logs error %q, want %q", own.fields["error"], want)
			}
		}
	}
	figure := fmt.Sprintf("%d tries at both nodes, 0 bytes, closed within %s (CONNECT: 401)", tries, console.Took(slowest))
	if !w.claims {
		line, err := w.awaitLine(ctx, w.ztunnels[1], "access", "connection complete", map[string]string{
			"direction": "inbound", "src.identity": w.stranger.ID.String(),
		})
		return fmt.Sprintf("%s\nlog: connection complete … error=%q", figure, line.fields["error"]), err
	}
	var denied string
	for _, z := range w.ztunnels {
		line, err := w.awaitLine(ctx, z, "telemetry", "read denied", map[string]string{"src.identity": w.stranger.ID.String()})
		if err != nil {
			return "", err
		}
		denied = line.fields["error"]
		told, err := w.scrape(ctx, metricsOf(z)[0])
		if err != nil {
			return "", err
		}
		if counted, want := told.audited(w.stranger, "401"), len(metricsOf(z)); counted != float64(want) {
			return "", fmt.Errorf("%s{code=401} of %s counts %v reads of %s, want %d", auditMetric, z.Name, counted, w.stranger.ID, want)
		}
	}
	return fmt.Sprintf("%s; audited: %s, code 401, %d\nlog: read denied … error=%q", figure, w.stranger.ID, tries, denied), nil
}

// readInPlaintext tries from outside of the mesh, and inside of each ztunnel's
// namespace.
func (w *world) readInPlaintext(ctx context.Context) (string, error) {
	if !w.claims {
		return "", &console.SkipError{Why: fmt.Sprintf("not claimed by this ztunnel: port %d is open to anybody in plaintext", mesh.MetricsPort)}
	}
	tries := 0
	for _, z := range w.ztunnels {
		for _, table := range []string{"tcp", "tcp6"} {
			listens, err := listensAt(fmt.Sprintf("/proc/%d/net/%s", z.PID(), table), mesh.MetricsPort)
			if err != nil {
				return "", err
			}
			if listens {
				return "", fmt.Errorf("in the namespace of %s a socket listens at port %d", z.Name, mesh.MetricsPort)
			}
		}
		inside := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), mesh.MetricsPort)
		if err := closedTo(ctx, z.Pod.Namespace, inside); err != nil {
			return "", err
		}
		for _, addr := range metricsOf(z) {
			if err := closedTo(ctx, w.outsider.Namespace, addr); err != nil {
				return "", err
			}
			tries++
		}
	}
	return fmt.Sprintf("from outside: %d tries, connection refused; inside: 127.0.0.1:%d connection refused, no listener in the kernel's tables",
		tries, mesh.MetricsPort), nil
}

// closedTo is an error unless connections are refused.
func closedTo(ctx context.Context, from *mesh.Namespace, to netip.AddrPort) error {
	c, err := from.Dial(ctx, to)
	if err == nil {
		c.Close()
		err = errors.New("it connects")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("from %s, dial %s, want connection refused: %w", from.Name, to, err)
	}
	return nil
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
