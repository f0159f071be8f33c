package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ztunnel/proxy/needs"
	"ztunnel/proxy/socket"
)

// The test binary is ztunnel itself if the environment says so.
const (
	actAsProgram = "ZTUNNEL_TEST_PROGRAM"   // run main
	loopbackUp   = "ZTUNNEL_TEST_LOOPBACK"  // in a new network namespace: bring lo up before
	takenPort    = "ZTUNNEL_TEST_TAKE_PORT" // listen there before
)

func TestMain(m *testing.M) {
	if os.Getenv(actAsProgram) == "" {
		os.Exit(m.Run())
	}
	if os.Getenv(loopbackUp) != "" {
		if err := bringUpLoopback(); err != nil {
			panic(err)
		}
	}
	if port := os.Getenv(takenPort); port != "" {
		ln, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			panic(err)
		}
		defer runtime.KeepAlive(ln) // else it is closed when nobody needs it
	}
	main()
}

func bringUpLoopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

// command is ztunnel with arguments and nothing in its environment but env.
func command(t *testing.T, args []string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, args...)
	c.Env = append([]string{actAsProgram + "=1"}, env...)
	c.Dir = t.TempDir()
	return c
}

func TestCommands(t *testing.T) {
	dedicated := []string{"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=default/web/web", "XDS_ADDRESS=", "FAKE_CA=true"}
	for name, tc := range map[string]struct {
		args, env      []string
		code           int
		stdout, stderr string
	}{
		"version":      {[]string{"version"}, nil, 0, "version.BuildInfo{Version:", ""},
		"help":         {[]string{"help"}, nil, 0, "Commands:\nproxy (default) - Start the ztunnel proxy\n", ""},
		"unknown":      {[]string{"frobnicate"}, nil, 1, "", "unknown command: frobnicate\nIstio Ztunnel ("},
		"bad variable": {nil, append(dedicated, "KEEPALIVE_RETRIES=many"), 1, "", "KEEPALIVE_RETRIES"},
		"bad duration": {[]string{"proxy"}, append(dedicated, "INBOUND_HANDSHAKE_TIMEOUT=soon"), 1, "", "INBOUND_HANDSHAKE_TIMEOUT"},
		"no workload":  {nil, []string{"PROXY_MODE=dedicated"}, 1, "", "PROXY_WORKLOAD_INFO"},
		"no CA":        {nil, []string{"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=default/web/web", "XDS_ADDRESS=", "CA_ADDRESS="}, 1, "", "CA_ADDRESS"},
		"bad address":  {nil, []string{"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=default/web/web", "XDS_ADDRESS=https://:0", "FAKE_CA=true"}, 1, "", "XDS_ADDRESS"},
	} {
		t.Run(name, func(t *testing.T) {
			c := command(t, tc.args, tc.env...)
			var stdout, stderr bytes.Buffer
			c.Stdout, c.Stderr = &stdout, &stderr
			_ = c.Run()
			if got := c.ProcessState.ExitCode(); got != tc.code {
				t.Errorf("exit status = %d, want %d", got, tc.code)
			}
			if !strings.Contains(stdout.String(), tc.stdout) {
				t.Errorf("stdout = %q, want %q in it", stdout.String(), tc.stdout)
			}
			if !strings.Contains(stderr.String(), tc.stderr) || tc.stderr == "" && stderr.Len() > 0 {
				t.Errorf("stderr = %q, want %q in it", stderr.String(), tc.stderr)
			}
		})
	}
}

// program is a running ztunnel in a network namespace of its own.
type program struct {
	cmd     *exec.Cmd
	mu      sync.Mutex
	out     bytes.Buffer
	sockets *socket.Factory
	http    *http.Client
	ended   chan struct{}
}

func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

const localContent = `
workloads:
- {uid: web, name: web, namespace: default, serviceAccount: web, workloadIps: [127.0.0.1], protocol: HBONE, services: {default/web.default: {80: 8080}}}
services:
- {name: web, namespace: default, hostname: web.default, vips: [/127.10.0.1], ports: {80: 8080}}
policies:
- {name: all, namespace: default, scope: Namespace, action: Deny, dryRun: false, rules: [[[{principals: [!Exact nobody]}]]]}
`

// start runs ztunnel until the end of the test.
func start(t *testing.T, env ...string) *program {
	t.Helper()
	needs.Root(t)
	env = append([]string{
		loopbackUp + "=1", "PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=default/web/web", "XDS_ADDRESS=", "FAKE_CA=true",
		"CONNECTION_TERMINATION_DEADLINE=1s",
	}, env...)
	p := &program{cmd: command(t, nil, env...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := p.cmd.Start(); errors.Is(err, syscall.EPERM) { // root of a container
		needs.Missing(t, fmt.Sprintf("network namespaces are not to be had: %v", err))
	} else if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("ztunnel wrote\n%s", p.output())
		}
	})
	ns, err := os.Open("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/ns/net")
	if err != nil {
		return p // it has ended already
	}
	t.Cleanup(func() { _ = ns.Close() })
	p.sockets = socket.NewFactory(socket.Config{NetNS: ns})
	p.http = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			return p.sockets.Dial(ctx, netip.Addr{}, to)
		},
	}}
	return p
}

// get returns the status and body of a page, 0 if there is no answer.
func (p *program) get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := p.http.Do(r)
	if err != nil {
		return 0, ""
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("it never came true: %s", what)
		}
	}
}

func (p *program) ready(t *testing.T) {
	t.Helper()
	until(t, "ztunnel is ready", func() bool {
		select {
		case <-p.ended:
			t.Fatal("ztunnel has ended")
		default:
		}
		status, _ := p.get(t, "http://127.0.0.1:15021/healthz/ready")
		return status == http.StatusOK
	})
}

// exit waits for the end of the process and checks its status.
func (p *program) exit(t *testing.T, code int) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("ztunnel does not end")
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("exit status = %d, want %d", got, code)
	}
}

func (p *program) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func TestProcess_FromReadyToTheEnd(t *testing.T) {
	p := start(t, "LOCAL_XDS="+localContent)
	p.ready(t)
	if _, metrics := p.get(t, "http://127.0.0.1:15000/stats/prometheus"); !strings.Contains(metrics, "istio_build{") {
		t.Errorf("metrics of the admin server = %.200q, want istio_build in them", metrics)
	}
	if status, _ := p.get(t, "http://127.0.0.1:15020/metrics"); status != 0 {
		t.Errorf("metrics in plain text are answered with %d, want nobody to listen", status)
	}
	_, text := p.get(t, "http://127.0.0.1:15000/config_dump")
	var dump map[string]any
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		t.Fatalf("config_dump: %v", err)
	}
	for _, key := range []string{"certificates", "config", "policies", "services", "stagedServices", "staticConfig", "version", "workloads"} {
		if dump[key] == nil {
			t.Errorf("config_dump has no %s", key)
		}
	}
	c, err := p.sockets.Dial(t.Context(), netip.Addr{}, netip.MustParseAddrPort("127.0.0.1:15008"))
	if err != nil {
		t.Fatalf("port 15008: %v", err)
	}
	_ = c.Close()
	p.signal(t, syscall.SIGTERM)
	p.exit(t, 0)
	for _, line := range []string{
		"received signal SIGTERM, starting shutdown", "listener established", "FAKE_CA is on",
		"shutdown complete", "connection failed", // of the connection without TLS
	} {
		if !strings.Contains(p.output(), line) {
			t.Errorf("the log has no %q", line)
		}
	}
}

func TestProcess_LocalConfigurationIsReloaded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(localContent)
	p := start(t, "LOCAL_XDS_PATH="+path)
	p.ready(t)
	known := func() []string {
		_, text := p.get(t, "http://127.0.0.1:15000/config_dump")
		var dump struct{ Workloads []struct{ Name string } }
		if err := json.Unmarshal([]byte(text), &dump); err != nil {
			t.Fatalf("config_dump: %v", err)
		}
		var names []string
		for _, w := range dump.Workloads {
			names = append(names, w.Name)
		}
		return names
	}
	if got := known(); !slices.Equal(got, []string{"web"}) {
		t.Errorf("workloads = %q, want web", got)
	}
	write("workloads: 7")
	until(t, "the bad file is reported", func() bool {
		return strings.Contains(p.output(), "local config not reloaded, the old one stays in force")
	})
	if got := known(); !slices.Equal(got, []string{"web"}) {
		t.Errorf("workloads after a bad file = %q, want web still", got)
	}
	write(strings.Replace(localContent, "\nservices:", "\n- {uid: db, name: db, namespace: default, serviceAccount: db, workloadIps: [127.0.0.2], protocol: TCP, services: {}}\nservices:", 1))
	until(t, "the new workload is known", func() bool { return slices.Equal(known(), []string{"db", "web"}) })
	p.signal(t, syscall.SIGINT)
	p.exit(t, 0)
}

// A drain waits for connections while the process can still be looked at, and
// has an end.
func TestProcess_Drain(t *testing.T) {
	p := start(t, "LOCAL_XDS="+localContent)
	p.ready(t)
	c, err := p.sockets.Dial(t.Context(), netip.Addr{}, netip.MustParseAddrPort("127.0.0.1:15008"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() // it says nothing, and holds the drain
	until(t, "the connection is served", func() bool {
		_, metrics := p.get(t, "http://127.0.0.1:15000/stats/prometheus")
		return strings.Contains(metrics, `istio_tcp_sockets_open{reporter="destination"} 1`)
	})
	p.signal(t, syscall.SIGTERM)
	until(t, "readiness says that it drains", func() bool {
		status, _ := p.get(t, "http://127.0.0.1:15021/healthz/ready")
		return status == http.StatusServiceUnavailable
	})
	if _, metrics := p.get(t, "http://127.0.0.1:15000/stats/prometheus"); !strings.Contains(metrics, "istio_ztunnel_draining 1") {
		t.Error("the metrics do not say that it drains")
	}
	p.exit(t, 0)
}

func TestProcess_PortTaken(t *testing.T) {
	p := start(t, "LOCAL_XDS="+localContent, takenPort+"=15001")
	p.exit(t, 1)
	if text := p.output(); !strings.Contains(text, "outbound: failed to bind to address [::]:15001: Address already in use (os error 98)") {
		t.Errorf("the output does not name the port")
	}
}

func TestProcess_BadLocalConfiguration(t *testing.T) {
	p := start(t, "LOCAL_XDS=workloads: 7")
	p.exit(t, 1)
	if text := p.output(); !strings.Contains(text, "ztunnel: ") || !strings.Contains(text, "workloads") {
		t.Errorf("the output does not name the field")
	}
}
