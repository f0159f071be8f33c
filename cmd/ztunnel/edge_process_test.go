package main

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dial connects to the process.
func (p *program) dial(t *testing.T, port uint16) (net.Conn, error) {
	t.Helper()
	c, err := p.sockets.Dial(t.Context(), netip.Addr{}, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, nil
}

// Whoever asks for the end by the admin server gets it.
func TestProcess_Quit(t *testing.T) {
	p := start(t, "LOCAL_XDS="+localContent)
	p.ready(t)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:15000/quitquitquit", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	answer, err := p.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("quitquitquit = %d, want 200", answer.StatusCode)
	}
	p.exit(t, 0)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the end took %v, want less than 5 s", took)
	}
	if !strings.Contains(p.output(), "received explicit shutdown signal") {
		t.Error("the log does not say why it ended")
	}
}

// A port that is taken, of whichever listener, is the end of the start.
func TestProcess_EveryPortTaken(t *testing.T) {
	for port, component := range map[string]string{"15000": "admin", "15001": "outbound", "15006": "inbound passthrough", "15008": "inbound", "15021": "readiness"} {
		t.Run(component, func(t *testing.T) {
			p := start(t, "LOCAL_XDS="+localContent, takenPort+"="+port)
			p.exit(t, 1)
			text := p.output()
			if !strings.Contains(text, component+": failed to bind to address ") || !strings.Contains(text, ":"+port+": ") || !strings.Contains(strings.ToLower(text), "address already in use") {
				t.Errorf("the output does not name %s and port %s", component, port)
			}
		})
	}
}

// A drain waits for an open connection, and ends with it.
func TestProcess_DrainEndsWithTheConnection(t *testing.T) {
	p := start(t, "LOCAL_XDS="+localContent, "CONNECTION_TERMINATION_DEADLINE=1m", "INBOUND_HANDSHAKE_TIMEOUT=1m")
	p.ready(t)
	c, err := p.dial(t, 15008)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the connection is served", func() bool {
		_, metrics := p.get(t, "http://127.0.0.1:15000/stats/prometheus")
		return strings.Contains(metrics, `istio_tcp_sockets_open{reporter="destination"} 1`)
	})
	p.signal(t, syscall.SIGTERM)
	until(t, "the port is closed", func() bool {
		another, err := p.dial(t, 15008)
		if err == nil {
			_ = another.Close() // else it would be waited for too
		}
		return err != nil
	})
	select {
	case <-p.ended:
		t.Fatal("it ended although a connection is open")
	case <-time.After(300 * time.Millisecond):
	}
	_ = c.Close()
	begin := time.Now()
	p.exit(t, 0)
	if took := time.Since(begin); took > 5*time.Second { // a moment, not the deadline
		t.Errorf("the end took %v after that of the connection", took)
	}
}

// A shared process listens in its own namespace for those who look at it, not
// for the traffic of pods. Readiness is HTTP and nothing else.
func TestProcess_SharedHasNoPodPorts(t *testing.T) {
	p := start(t, "PROXY_MODE=shared", "PROXY_WORKLOAD_INFO=", "INPOD_UDS="+filepath.Join(t.TempDir(), "none.sock"),
		"NODE_NAME=node", "POD_NAME=ztunnel-x", "POD_NAMESPACE=istio-system", "SERVICE_ACCOUNT=ztunnel", "TRUST_DOMAIN=td")
	until(t, "it is there", func() bool {
		status, _ := p.get(t, "http://127.0.0.1:15021/healthz/ready")
		return status != 0
	})
	until(t, "its own listener is there", func() bool { _, err := p.dial(t, 15008); return err == nil })
	for _, port := range []uint16{15001, 15006, 15020, 15053, 15080} {
		if _, err := p.dial(t, port); err == nil {
			t.Errorf("something listens on %d", port)
		}
	}
	c, err := p.dial(t, 15021)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "garbage\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
		t.Errorf("the answer to garbage is %q, %v, want 400", answer, err)
	}
	p.signal(t, syscall.SIGTERM)
	p.exit(t, 0)
	for _, line := range []string{ // in the words of the reference
		"info\tapp\tshared proxy mode - in-pod mode enabled\t\n",
		"info\tproxyfactory\tcreating ztunnel self-proxy listener with identity: " +
			`Spiffe { trust_domain: "td", namespace: "istio-system", service_account: "ztunnel" }` + "\t\n",
		"info\tapp\tStarting ztunnel inbound listener task\t\n",
	} {
		if !strings.Contains(p.output(), line) {
			t.Errorf("the log has no %q", line)
		}
	}
}
