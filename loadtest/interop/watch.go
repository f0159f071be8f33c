package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
)

const (
	// pollEvery is how often something is asked that cannot be waited for.
	pollEvery = 10 * time.Millisecond
	// awaitLimit is how long something may take that should be there at once.
	awaitLimit = 5 * time.Second
	// maxAnswer bounds what is read of an answer, bytes.
	maxAnswer = 16 << 20
)

func readAll(r io.Reader) (string, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxAnswer))
	return string(content), err
}

// fields are some of a log line, each as name=value; a value that ends in … may
// go on.
type fields []string

// in tells whether a line has all fields, be their values quoted or not.
func (f fields) in(line string) bool {
	line = strings.ReplaceAll(line, "\t", " ") + " "
	return !slices.ContainsFunc(f, func(field string) bool {
		end := " "
		if open, ok := strings.CutSuffix(field, "…"); ok {
			field, end = open, ""
		}
		name, value, _ := strings.Cut(field, "=")
		quoted := strings.TrimSuffix(strconv.Quote(value), `"`)
		if end != "" {
			quoted += `"`
		}
		return !strings.Contains(line, " "+field+end) && !strings.Contains(line, " "+name+"="+quoted+end)
	})
}

// awaitLine waits for a line of a log, from number since on.
func awaitLine(ctx context.Context, name string, log *mesh.Log, since int, want fields) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	line, err := log.Await(ctx, since, want.in)
	if err != nil {
		return "", fmt.Errorf("no line with %s in the log of %s: %w", strings.Join(want, " "), name, err)
	}
	return line, nil
}

// value is that of a field of a line, or nothing.
func value(line, name string) string {
	_, after, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " "+name+"=")
	if quoted, err := strconv.QuotedPrefix(after); err == nil {
		text, _ := strconv.Unquote(quoted) // it is quoted
		return text
	}
	text, _, _ := strings.Cut(after, " ")
	return text
}

// sum is that of all series of a family of a ztunnel's metrics with the given
// labels.
func sum(ctx context.Context, z *cluster.Ztunnel, family string, labels map[string]string) (float64, error) {
	status, body, err := z.Get(ctx, mesh.MetricsPort, "/metrics")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", z.Name, err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", z.Name, err)
	}
	total := 0.0
	for _, m := range families[family].GetMetric() {
		fits := 0
		for _, pair := range m.GetLabel() {
			if want, ok := labels[pair.GetName()]; ok && want == pair.GetValue() {
				fits++
			}
		}
		if fits == len(labels) {
			total += m.GetCounter().GetValue() + m.GetUntyped().GetValue() + m.GetGauge().GetValue()
		}
	}
	return total, nil
}

// What counts connections.
const (
	openedTotal = "istio_tcp_connections_opened_total"
	closedTotal = "istio_tcp_connections_closed_total"
)

// untilClosed waits until so many connections with the given labels have ended:
// a ztunnel may count an end a little later than its peer sees it.
func untilClosed(ctx context.Context, z *cluster.Ztunnel, labels map[string]string, want int) error {
	limited, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	return app.Retry(limited, pollEvery, func() error {
		got, err := sum(ctx, z, closedTotal, labels)
		if err == nil && got != float64(want) {
			err = fmt.Errorf("%s%v of %s is %v, want %d", closedTotal, labels, z.Name, got, want)
		}
		return err
	})
}

// refused tries to talk, and returns how long it took until the connection was
// ended. That a byte came back, or that it was not ended, is an error.
func refused(ctx context.Context, from *mesh.Namespace, to netip.AddrPort) (time.Duration, error) {
	start := time.Now()
	c, err := from.Dial(ctx, to)
	if err != nil {
		return 0, fmt.Errorf("the pod's own capture should have taken the connection: %w", err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "ping"); err != nil && !app.Refused(err) {
		return 0, err
	}
	took, err := app.UntilCut(c, start, awaitLimit)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("from %s to %s, want a refusal", from.Name, to), err)
	}
	return took, nil
}
