package proxy

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ztunnel/proxy/config"
	"ztunnel/proxy/inpod"
	"ztunnel/proxy/live"
	"ztunnel/proxy/needs"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/workload"
)

const testMark = 0x539

// netns makes a network namespace with a loopback interface, prepared by another function on a thread inside.
func netns(t testing.TB, prepare ...func() error) *os.File {
	t.Helper()
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	go func() { // its thread ends with it, still locked
		runtime.LockOSThread()
		file, err := func() (*os.File, error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return nil, os.NewSyscallError("unshare", err)
			}
			h, err := netlink.NewHandle()
			if err != nil {
				return nil, err
			}
			defer h.Close()
			lo, err := h.LinkByName("lo")
			if err != nil {
				return nil, err
			}
			if err := h.LinkSetUp(lo); err != nil {
				return nil, err
			}
			for _, f := range prepare {
				if err := f(); err != nil {
					return nil, err
				}
			}
			return os.Open("/proc/thread-self/ns/net")
		}()
		made <- result{file, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.file.Close() })
	return r.file
}

// noIPv6 switches IPv6 off.
func noIPv6() error {
	return errors.Join(
		os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0))
}

// again opens a namespace once more.
func again(t testing.TB, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

// newPods is a node for pods with the ports of the reference.
func newPods(t testing.TB) (*world, *Pods) {
	t.Helper()
	w := newNode(t)
	wildcard := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.IPv6Unspecified(), port) }
	w.Config = &config.Config{
		Mode: config.Shared, EnableProxy: true, DNSProxy: true, IPv6: true, LocalhostIPv6: true, InpodPortReuse: true, PacketMark: testMark,
		InboundAddr: wildcard(15008), InboundPlaintextAddr: wildcard(15006), OutboundAddr: wildcard(15001),
		DNSProxyAddr: config.Listen{Localhost: true, Port: 15053}, DrainDeadline: 5 * time.Second,
		IllegalPorts: []uint16{15001, 15006, 15008},
	}
	return w, NewPods(w.Node)
}

var info = inpod.Info{Name: "web", Namespace: "default", ServiceAccount: "web"}

// start starts a pod and ends it with the test.
func (w *world) start(t testing.TB, ps *Pods, ns *os.File) *servedPod {
	t.Helper()
	r, err := ps.Start(t.Context(), "uid", info, again(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Drain(true); <-r.Done() })
	return r.(*servedPod)
}

// inside is a client in a namespace.
func inside(ns *os.File) *socket.Factory { return socket.NewFactory(socket.Config{NetNS: ns}) }

// listening are the ports of a namespace at which something listens, by connecting to them.
func listening(t testing.TB, ns *os.File, ip string, ports ...uint16) (open []uint16) {
	t.Helper()
	for _, port := range ports {
		c, err := inside(ns).Dial(t.Context(), netip.Addr{}, netip.AddrPortFrom(netip.MustParseAddr(ip), port))
		if err == nil {
			_ = c.Close()
			open = append(open, port)
		}
	}
	return open
}

func wantPorts(t testing.TB, ns *os.File, ip string, want int) {
	t.Helper()
	if open := listening(t, ns, ip, 15001, 15006, 15008, 15053); len(open) != want {
		t.Errorf("listening at %s: %v, want %d ports", ip, open, want)
	}
}

func TestPods_Start(t *testing.T) {
	needs.Root(t)
	w, ps := newPods(t)
	ns := netns(t)
	p := w.start(t, ps, ns)
	wantPorts(t, ns, "127.0.0.1", 4)
	wantPorts(t, ns, "::1", 4)
	for _, ln := range []*net.TCPListener{p.pod.parts[0].ln, p.pod.parts[1].ln, p.pod.parts[2].ln} {
		rc, err := ln.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = rc.Control(func(fd uintptr) {
			for option, want := range map[int]int{unix.SO_MARK: testMark, unix.SO_REUSEPORT: 1, unix.SO_REUSEADDR: 0} {
				if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option); err != nil || got != want {
					t.Errorf("%s: option %d is %#x, %v, want %#x", ln.Addr(), option, got, err, want)
				}
			}
		})
	}
	if d, ok := p.Connections().(live.Dump); !ok || len(d.Inbound) != 0 {
		t.Errorf("Connections() = %v, want none", p.Connections())
	}
	successor := w.start(t, ps, ns) // as in an upgrade
	p.Drain(false)
	<-p.Done()
	wantPorts(t, ns, "127.0.0.1", 4)
	successor.Drain(true)
	<-successor.Done()
	wantPorts(t, ns, "127.0.0.1", 0)
	if _, err := p.netns.Stat(); err == nil {
		t.Error("the namespace is left open")
	}
}

// A pod without IPv6 is served like any other.
func TestPods_WithoutIPv6(t *testing.T) {
	needs.Root(t)
	w, ps := newPods(t)
	ns := netns(t, noIPv6)
	w.start(t, ps, ns)
	wantPorts(t, ns, "127.0.0.1", 4)
	if addr := "address=[::1]:15053"; w.log.Has("INFO listener established", addr) {
		t.Errorf("listening with %s in a namespace without", addr)
	}
}

// What a failed start had bound is free again, and the namespace is the caller's.
func TestPods_PortTaken(t *testing.T) {
	needs.Root(t)
	for _, port := range []uint16{15001, 15006, 15008, 15053} {
		t.Run(strconv.Itoa(int(port)), func(t *testing.T) {
			_, ps := newPods(t)
			ns := netns(t)
			taken, _, err := inside(ns).Listen(t.Context(), netip.AddrPortFrom(netip.IPv6Unspecified(), port), new(bool))
			if err != nil {
				t.Fatal(err)
			}
			defer taken.Close()
			_, err = ps.Start(t.Context(), "uid", info, ns)
			if err == nil || !strings.Contains(err.Error(), "failed to bind to address ") || !strings.Contains(err.Error(), "Address already in use (os error 98)") {
				t.Errorf("Start() = %v, want the address that is in use", err)
			}
			if open := listening(t, ns, "127.0.0.1", 15001, 15006, 15008, 15053); len(open) != 1 || open[0] != port {
				t.Errorf("listening: %v, want %d alone", open, port)
			}
			if _, err := ns.Stat(); err != nil {
				t.Errorf("the namespace was closed: %v", err)
			}
		})
	}
}

// A file that is no namespace is refused.
func TestPods_NoNamespace(t *testing.T) {
	needs.Root(t)
	_, ps := newPods(t)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := ps.Start(t.Context(), "uid", info, f); err == nil {
		t.Error("Start() in /dev/null succeeded")
	}
}

// A deleted pod's connections are cut at once.
func TestPods_DrainImmediate(t *testing.T) {
	needs.Root(t)
	w, ps := newPods(t)
	ns := netns(t)
	p := w.start(t, ps, ns)
	c, err := inside(ns).Dial(t.Context(), netip.Addr{}, netip.MustParseAddrPort("127.0.0.1:15008"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begin := time.Now()
	p.Drain(false)
	p.Drain(true)
	wantPorts(t, ns, "127.0.0.1", 0)
	<-p.Done()
	if took := time.Since(begin); took > w.Config.DrainDeadline/2 {
		t.Errorf("the end took %v", took)
	}
	_ = c.SetReadDeadline(time.Now().Add(proxytest.Patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read = %v, want the end of the connection", err)
	}
}

// Queries are taken and asked in the pod's namespace.
func TestPods_DNS(t *testing.T) {
	needs.Root(t)
	w, ps := newPods(t)
	ns := netns(t)
	resolver, err := inside(ns).ListenPacket(t.Context(), netip.MustParseAddrPort("127.0.0.1:53"))
	if err != nil {
		t.Fatal(err)
	}
	upstream := &mdns.Server{PacketConn: resolver, Handler: mdns.HandlerFunc(func(rw mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg).SetReply(q)
		m.Answer = append(m.Answer, &mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 5}, A: net.IPv4(192, 0, 2, 7)})
		_ = rw.WriteMsg(m)
	})}
	started, ended := make(chan struct{}), make(chan struct{})
	upstream.NotifyStartedFunc = func() { close(started) }
	go func() { defer close(ended); _ = upstream.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = upstream.Shutdown(); <-ended })
	w.Config.Resolver.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	w.start(t, ps, ns)
	for _, server := range []string{"127.0.0.1:15053", "[::1]:15053"} {
		c := mdns.Client{Timeout: proxytest.Patience, Dialer: &net.Dialer{Control: inside(ns).Control}}
		answer, _, err := c.Exchange(new(mdns.Msg).SetQuestion("there.test.", mdns.TypeA), server)
		if err != nil || len(answer.Answer) != 1 {
			t.Errorf("query at %s: %v, %v, want one address", server, answer, err)
		}
	}
}

// Questions are answered until the last connection has ended, which may need it.
func TestPods_DNSWhileDraining(t *testing.T) {
	needs.Root(t)
	_, ps := newPods(t)
	w, ns := ps.node, netns(t)
	w.Config.DrainDeadline = time.Minute
	r, err := ps.Start(t.Context(), "uid", info, again(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { r.Drain(true); <-r.Done() }()
	c, err := inside(ns).Dial(t.Context(), netip.Addr{}, netip.MustParseAddrPort("127.0.0.1:15008"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r.Drain(false)
	proxytest.Until(t, "the listeners are closed", func() bool { return len(listening(t, ns, "127.0.0.1", 15001, 15006, 15008)) == 0 })
	client := mdns.Client{Timeout: proxytest.Patience, Dialer: &net.Dialer{Control: inside(ns).Control}}
	if _, _, err := client.Exchange(new(mdns.Msg).SetQuestion("localhost.", mdns.TypeA), "127.0.0.1:15053"); err != nil {
		t.Errorf("a question during the drain: %v, want an answer", err)
	}
}

// TestPods_Cost opens many pods and measures what an idle one costs.
func TestPods_Cost(t *testing.T) {
	needs.Root(t)
	const n = 200
	w, ps := newPods(t)
	var namespaces []*os.File
	for range n + 10 {
		namespaces = append(namespaces, netns(t))
	}
	start := func(from, to int) (all []inpod.Running, times []time.Duration) {
		for _, ns := range namespaces[from:to] {
			f := again(t, ns)
			begin := time.Now()
			r, err := ps.Start(t.Context(), "uid", info, f)
			if err != nil {
				t.Fatal(err)
			}
			all, times = append(all, r), append(times, time.Since(begin))
		}
		slices.Sort(times)
		return all, times
	}
	warm, _ := start(n, n+10)
	before := usage()
	pods, times := start(0, n)
	after := usage()
	heap, stacks, goroutines := (after.heap-before.heap)/n, (after.stacks-before.stacks)/n, float64(after.goroutines-before.goroutines)/n
	t.Logf("per pod: %d bytes of heap, %d of stacks, %.1f goroutines, %d KiB resident; started in %v, 95 of 100 in %v, all in %v",
		heap, stacks, goroutines, (after.resident-before.resident)/n>>10, times[n/2], times[n*95/100], times[n-1])
	if times[n/2] > 1500*time.Microsecond {
		t.Errorf("starting a pod takes %v, want at most 1.5 ms", times[n/2])
	}
	if heap > 20<<10 || goroutines > 8 {
		t.Errorf("an idle pod has %d bytes of heap and %.1f goroutines, want at most 20 KiB and 8", heap, goroutines)
	}
	for _, r := range append(pods, warm...) {
		r.Drain(true)
		<-r.Done()
	}
	if w.watcher.pods == nil || len(w.watcher.all()) != 0 {
		t.Error("pods are still watched")
	}
}

type use struct{ heap, stacks, goroutines, resident int }

func usage() use {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	statm, _ := os.ReadFile("/proc/self/statm")
	pages, _ := strconv.Atoi(strings.Fields(string(statm))[1])
	return use{int(m.HeapAlloc), int(m.StackInuse), runtime.NumGoroutine(), pages * os.Getpagesize()}
}

// Without the proxy there is DNS alone, and the config dump has no connections.
func TestPods_OnlyDNS(t *testing.T) {
	needs.Root(t)
	w, ps := newPods(t)
	w.Config.EnableProxy = false
	ns := netns(t)
	p := w.start(t, ps, ns)
	if open := listening(t, ns, "127.0.0.1", 15001, 15006, 15008, 15053); !slices.Equal(open, []uint16{15053}) {
		t.Errorf("listening: %v, want 15053 alone", open)
	}
	if got := p.Connections(); got != nil {
		t.Errorf("Connections() = %v, want nil", got)
	}
	p.Drain(false)
	<-p.Done()
}

// Lines about a pod say which one.
func TestPods_Log(t *testing.T) {
	needs.Root(t)
	w, ps := newPods(t)
	w.PodLog = func(scope, span, pod string) *slog.Logger {
		return w.log.Logger().With("scope", scope, "span", span, "wl", pod)
	}
	p := w.start(t, ps, netns(t))
	p.Drain(true)
	<-p.Done()
	for _, line := range []string{
		"INFO listener established scope=dns::server span=dns_proxy wl=default/web",
		"INFO listener established scope=proxy::inbound span=proxy wl=default/web",
		"INFO shutdown complete scope=proxy::outbound span=proxy wl=default/web",
	} {
		if !w.log.Has(line) {
			t.Errorf("the log has no line %q; it has\n%s", line, w.log)
		}
	}
}

// The pods of a node are watched by one goroutine, which ends with the last of them.
func TestWatch(t *testing.T) {
	w := newNode(t)
	count := func() int {
		w.watcher.mu.Lock()
		defer w.watcher.mu.Unlock()
		return len(w.watcher.pods)
	}
	before := runtime.NumGoroutine()
	for range 3 { // again after the last has gone
		var sets [10]live.Set
		var unwatch []func()
		for i := range sets {
			unwatch = append(unwatch, w.watch(workload.Info(info), &sets[i], w.log.Logger()))
		}
		if n := runtime.NumGoroutine() - before; n != 1 {
			t.Errorf("%d goroutines watch, want 1", n)
		}
		w.Store.Apply(workload.Update{Workloads: []*workload.Workload{proxytest.Workload("web", podIP)}})
		for _, f := range unwatch {
			f()
		}
		if n := count(); n != 0 {
			t.Errorf("%d pods are left", n)
		}
		proxytest.Until(t, "nobody watches", func() bool { return runtime.NumGoroutine() == before })
	}
}
