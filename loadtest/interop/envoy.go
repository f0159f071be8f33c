package interop

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
)

// envoyLimit is how long an Envoy may take to check a configuration, to be ready
// or to end.
const envoyLimit = 15 * time.Second

// drainTime is how long a draining Envoy takes new connections, seconds: longer
// than it is watched.
const drainTime = "60"

// envoy is a running Envoy.
type envoy struct {
	*mesh.Process
	pod *cluster.Pod
}

// startEnvoy starts an Envoy in a pod, with a certificate for the pod's identity
// from the mesh's CA, and waits until it is ready. Envoy has checked the
// configuration before.
func (w *world) startEnvoy(ctx context.Context, pod *cluster.Pod, config func(files) ([]byte, error)) (*envoy, error) {
	own, err := w.credentials(pod)
	if err != nil {
		return nil, err
	}
	content, err := config(own)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(w.cfg.Dir, pod.Name+".json")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, envoyLimit)
	defer cancel()
	if output, err := exec.CommandContext(ctx, w.cfg.Envoy, "--mode", "validate", "--log-level", "warning", "-c", path).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("Envoy does not accept the configuration of %s: %w\n%s", pod.Name, err, output)
	}
	process, err := pod.Start(mesh.Command{
		Path: w.cfg.Envoy, LogFile: filepath.Join(w.cfg.Dir, fmt.Sprintf("%s-%d.log", pod.Name, len(w.envoys))),
		Args: []string{
			"-c", path, "--concurrency", "2", "--disable-hot-restart", "--log-level", "warning",
			"--file-flush-interval-msec", "20", "--drain-time-s", drainTime, "--drain-strategy", "immediate",
		},
	})
	if err != nil {
		return nil, err
	}
	e := &envoy{Process: process, pod: pod}
	w.envoys = append(w.envoys, e)
	return e, e.awaitReady(ctx)
}

// credentials issues a certificate and writes what Envoy reads.
func (w *world) credentials(pod *cluster.Pod) (files, error) {
	own, _, err := w.cluster.Plane.Issue(pod.ID.String(), 0)
	if err != nil {
		return files{}, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		return files{}, fmt.Errorf("encode key of %s: %w", pod.Name, err)
	}
	path := func(kind string) string { return filepath.Join(w.cfg.Dir, pod.Name+"."+kind+".pem") }
	f := files{certificate: path("cert"), key: path("key"), root: path("root")}
	return f, errors.Join(
		os.WriteFile(f.certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]}), 0o600),
		os.WriteFile(f.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600),
		os.WriteFile(f.root, w.cluster.Plane.RootPEM(), 0o600),
	)
}

// ask asks the admin interface.
func (e *envoy) ask(ctx context.Context, method, path string) (string, error) {
	client := e.pod.HTTP()
	defer client.CloseIdleConnections()
	addr := netip.AddrPortFrom(loopback, adminPort)
	r, err := http.NewRequestWithContext(ctx, method, "http://"+addr.String()+path, nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(r)
	if err != nil {
		return "", fmt.Errorf("ask Envoy %s: %w", e.pod.Name, err)
	}
	defer answer.Body.Close()
	body, err := readAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("ask Envoy %s for %s: status %d %q", e.pod.Name, path, answer.StatusCode, body)
	}
	return body, err
}

// awaitReady waits until Envoy takes connections, which is a little later than
// it says that it is ready.
func (e *envoy) awaitReady(ctx context.Context) error {
	return app.Retry(ctx, pollEvery, func() error {
		select {
		case <-e.Ended():
			return fmt.Errorf("Envoy %s has ended", e.pod.Name)
		default:
		}
		body, err := e.ask(ctx, http.MethodGet, "/stats?filter="+workersStarted)
		if err == nil && parseStats(body)[workersStarted] != 1 {
			err = fmt.Errorf("Envoy %s takes no connections yet", e.pod.Name)
		}
		return err
	})
}

// stats are counters and gauges by name.
type stats map[string]int

// stats asks for all that are looked at.
func (e *envoy) stats(ctx context.Context) (stats, error) {
	body, err := e.ask(ctx, http.MethodGet, "/stats?filter="+url.QueryEscape(statsFilter))
	if err != nil {
		return nil, err
	}
	return parseStats(body), nil
}

// statsFilter is a regular expression for the names that are looked at.
const statsFilter = `^(http|cluster)\.(connect_terminate|connect_originate)\.(downstream|upstream)_(cx|rq)_`

// parseStats reads lines like "name: 42"; others it leaves out.
func parseStats(text string) stats {
	all := stats{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.Atoi(value); err == nil {
			all[name] = n
		}
	}
	return all
}

// The stats that are looked at.
const (
	workersStarted = "listener_manager.workers_started"

	tunnelsIn      = "http.connect_terminate.downstream_cx_total"
	tunnelsInOpen  = "http.connect_terminate.downstream_cx_active"
	requestsIn     = "http.connect_terminate.downstream_rq_total"
	requestsInOpen = "http.connect_terminate.downstream_rq_active"
	tunnelsDrained = "http.connect_terminate.downstream_cx_drain_close"
	tunnelsFull    = "http.connect_terminate.downstream_cx_max_requests_reached"
	tunnelsOutOpen = "cluster.connect_originate.upstream_cx_active"
	requestsOut    = "cluster.connect_originate.upstream_rq_active"
)
