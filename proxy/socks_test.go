package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ztunnel/proxy/needs"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/socket"
)

// openSOCKS opens a pod with a SOCKS port and a resolver that knows one name, and serves it.
func openSOCKS(t *testing.T) (w *world, port string) {
	t.Helper()
	w = newNode(t)
	w.Config.Socks5, w.Config.Socks5Addr = true, netip.MustParseAddrPort("127.0.0.1:0")
	w.Config.InboundHandshakeTimeout = proxytest.Patience
	w.resolve = func(_ context.Context, host string, ipv6 bool) ([]netip.Addr, error) {
		if host != "app.example" || ipv6 {
			return nil, errors.New("unknown host")
		}
		return []netip.Addr{netip.MustParseAddr(outIP)}, nil
	}
	w.open(t, 50*time.Millisecond, nil)
	return w, w.listener("socks5").Addr().String()
}

// What curl asks for by SOCKS goes the way of any outbound connection.
func TestSOCKS_Curl(t *testing.T) {
	curl := needs.Curl(t)
	w, port := openSOCKS(t)
	ln := proxytest.Listen(t, outIP)
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "hello ", r.Host) })}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	appPort := ln.Addr().(*net.TCPAddr).Port
	for _, test := range []struct{ option, host, want string }{
		{"--socks5", outIP, fmt.Sprint("hello ", outIP, ":", appPort)},
		{"--socks5-hostname", outIP, fmt.Sprint("hello ", outIP, ":", appPort)},
		{"--socks5-hostname", "app.example", fmt.Sprint("hello app.example:", appPort)},
	} {
		out, err := exec.CommandContext(t.Context(), curl, "--silent", "--show-error", "--max-time", "10", test.option, port,
			fmt.Sprint("http://", test.host, ":", appPort)).CombinedOutput()
		if err != nil || string(out) != test.want {
			t.Errorf("curl %s %s: %q, %v; want %q", test.option, test.host, out, err, test.want)
		}
		w.log.Wait(t, "INFO connection complete", "dst.addr="+ln.Addr().String(), "direction=outbound")
	}
	out, err := exec.CommandContext(t.Context(), curl, "--silent", "--show-error", "--max-time", "10", "--socks5-hostname", port, "http://nobody.example").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "(4)") { // the reply that the host is unreachable
		t.Errorf("curl to an unknown name: %q, %v, want reply 4", out, err)
	}
	w.log.Wait(t, "WARN failed to negotiate socks connection: HostUnreachable: dns lookup: unknown host")
	w.log.Wait(t, "WARN connection failed", "error=HostUnreachable: dns lookup: unknown host", "direction=outbound")
}

// Open SOCKS connections are cut at the deadline of the drain, as others.
func TestSOCKS_Drain(t *testing.T) {
	w, port := openSOCKS(t)
	app := proxytest.Echo(t, outIP)
	c := proxytest.Dial(t, "127.0.0.1", w.listener("socks5").Addr())
	request := append([]byte{5, 1, 0, 5, 1, 0, 1}, app.Addr().AsSlice()...)
	if _, err := c.Write(append(request, byte(app.Port()>>8), byte(app.Port()), 'x')); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(io.LimitReader(c, 13)); err != nil || len(got) != 13 || got[12] != 'x' {
		t.Fatalf("received % x, %v", got, err)
	}
	idle := proxytest.Dial(t, "127.0.0.1", w.listener("socks5").Addr()) // has not asked for anything yet
	if _, err := idle.Write([]byte{5, 1, 0}); err != nil {
		t.Fatal(err)
	}
	close(w.drain)
	w.ended(t)
	w.log.Wait(t, "INFO shutdown complete", "component=socks5")
	w.log.Wait(t, "ERROR connection complete", "error=connection closed due to connection drain")
	w.log.Wait(t, "WARN failed to negotiate socks connection: General: connection closed due to connection drain")
	if c, err := net.Dial("tcp", port); err == nil {
		c.Close()
		t.Error("the port is open after the end")
	}
}

// A pod that does not ask for it has no SOCKS port.
func TestSOCKS_Off(t *testing.T) {
	w := newNode(t)
	pod, err := w.OpenPod(t.Context(), PodConfig{Sockets: socket.NewFactory(socket.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	if len(pod.parts) != 3 || pod.socks != nil {
		t.Errorf("the pod has %d parts and SOCKS %v, want three and none", len(pod.parts), pod.socks)
	}
}
