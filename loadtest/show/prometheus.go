package show

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/console"
	"ztunnel/loadtest/mesh"
)

// prometheusAddr is where Prometheus listens in its pod.
const prometheusAddr = "127.0.0.1:9090"

// runPrometheus starts a real Prometheus in its pod, if one is installed.
func (w *world) runPrometheus(ctx context.Context) (string, error) {
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		return "", &console.SkipError{Why: "not installed: skipped"}
	}
	start := time.Now()
	var targets []string
	for _, z := range w.ztunnels {
		targets = append(targets, strconv.Quote(metricsOf(z)[0].String()))
	}
	dir := filepath.Join(w.dir, "prometheus")
	config := filepath.Join(dir, "prometheus.yaml")
	content := "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n" +
		"- job_name: ztunnel\n  static_configs:\n  - targets: [" + strings.Join(targets, ", ") + "]\n"
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(config, []byte(content), 0o600)); err != nil {
		return "", err
	}
	w.prometheusServer, err = w.prometheus.Start(mesh.Command{
		Path: binary, LogFile: filepath.Join(w.dir, "prometheus.log"),
		Args: []string{"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + prometheusAddr},
	})
	if err != nil {
		return "", err
	}
	figure, err := w.queryPrometheus(ctx)
	if err != nil {
		return "", fmt.Errorf("%w; the last lines of Prometheus:\n%s", err, strings.Join(w.prometheusServer.Log.Tail(tailLines), "\n"))
	}
	return figure + fmt.Sprintf(", %s after its start", console.Took(time.Since(start))), nil
}

// queryPrometheus waits until all queries have the answers that they should.
func (w *world) queryPrometheus(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	client := w.prometheus.HTTP()
	defer client.CloseIdleConnections()
	const (
		isUp   = `sum(up == 1)`
		mutual = `sum(istio_tcp_connections_opened_total{connection_security_policy="mutual_tls",source_workload="shopper",destination_workload="keeper"}) by (reporter)`
		reads  = `sum(istio_ztunnel_telemetry_requests_total{peer_identity=~".*/sa/prometheus",code="200"})`
	)
	var answers map[string]float64
	err := app.Retry(ctx, 10*pollEvery, func() error {
		select {
		case <-w.prometheusServer.Ended():
			cancel()
			return errors.New("Prometheus has ended")
		default:
		}
		answers = map[string]float64{}
		queries := []string{isUp, mutual}
		if w.claims {
			queries = append(queries, reads)
		}
		for _, query := range queries {
			values, err := ask(ctx, client, query)
			if err != nil {
				return err
			}
			want := 1
			if query == mutual {
				want = 2 // reporters
			}
			if len(values) != want {
				return fmt.Errorf("%s has %d answers, want %d", query, len(values), want)
			}
			for _, value := range values {
				answers[query] += value
			}
		}
		if up := answers[isUp]; up != float64(len(w.ztunnels)) {
			return fmt.Errorf("%v targets are up, want %d", up, len(w.ztunnels))
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	figure := fmt.Sprintf("up == 1 for %v of %d targets; connections shopper → keeper with mutual_tls: %v (both reporters)",
		answers[isUp], len(w.ztunnels), answers[mutual])
	if w.claims {
		figure += fmt.Sprintf("; audited reads of Prometheus: %v", answers[reads])
	}
	return figure, nil
}

// ask is the answer to an instant query: the values of its series.
func ask(ctx context.Context, client *http.Client, query string) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	status, body, err := mesh.Get(ctx, client, "http://"+prometheusAddr+"/api/v1/query?query="+url.QueryEscape(query))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return nil, fmt.Errorf("status %d: %w", status, err)
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("%s: %s", query, answer.Error)
	}
	var values []float64
	for _, series := range answer.Data.Result {
		text, _ := series.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", query, err)
		}
		values = append(values, value)
	}
	return values, nil
}
