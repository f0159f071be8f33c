package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ztunnel/proxy/config"
	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/needs"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/surface"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	podIP    = "127.0.0.2"
	outIP    = "127.0.0.9" // of the outbound listener, and of what is dialled through it
	clientIP = "127.0.0.5"
	clientID = "spiffe://cluster.local/ns/default/sa/client"
	otherID  = "spiffe://cluster.local/ns/default/sa/other"
)

// world is a node with one pod.
type world struct {
	*Node
	ca     *identitytest.CA
	log    *proxytest.Log
	pod    *Pod
	drain  chan struct{}
	cancel context.CancelFunc
	served chan error
	// resolve is the pod's resolver for SOCKS clients.
	resolve func(context.Context, string, bool) ([]netip.Addr, error)
}

func newNode(t testing.TB) *world {
	t.Helper()
	w := &world{ca: identitytest.NewCA(t), log: proxytest.NewLog(), drain: make(chan struct{}), served: make(chan error, 1)}
	at := func(ip string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(ip), 0) }
	w.Node = &Node{
		Config:   &config.Config{InboundAddr: at(podIP), InboundPlaintextAddr: at(podIP), OutboundAddr: at(outIP), OriginalSource: new(bool)},
		Store:    workload.NewStore(workload.Config{}),
		Policies: rbac.NewSet(w.log.Logger(), false), Certificates: &proxytest.Certificates{CA: w.ca},
		Recorder:    connection.NewRecorder(connection.Config{Log: w.log.Logger()}),
		ServerHBONE: &hbone.Config{}, ClientHBONE: &hbone.Config{}, Log: func(string) *slog.Logger { return w.log.Logger() },
	}
	w.Store.Apply(workload.Update{Workloads: []*workload.Workload{proxytest.Workload("web", podIP)}})
	t.Cleanup(w.Close) // after the pod
	return w
}

// open opens the pod and serves it to the end of the test.
func (w *world) open(t testing.TB, deadline time.Duration, surface *Surface) {
	t.Helper()
	c := PodConfig{Workload: proxytest.Info(w.Store.WorkloadByUID("web")), Sockets: socket.NewFactory(socket.Config{}), Resolve: w.resolve}
	if surface != nil {
		c.Surface = surface
	}
	var err error
	if w.pod, err = w.OpenPod(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.served <- w.pod.Serve(ctx, w.drain, deadline)
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func (w *world) listener(component string) *net.TCPListener {
	for _, p := range w.pod.parts {
		if p.component == component {
			return p.ln
		}
	}
	return nil
}

func (w *world) tunnel(t testing.TB, id string) *hbone.ClientConn {
	t.Helper()
	web := w.Store.WorkloadByUID("web").Identity()
	conn := proxytest.Dial(t, clientIP, w.listener("inbound").Addr())
	c, err := hbone.Client(t.Context(), conn, w.ca.Workload(t, id).ClientConfig([]spiffe.ID{web}), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Abort(nil); <-c.Done() })
	return c
}

func stream(t testing.TB, c *hbone.ClientConn, authority string) *hbone.Stream {
	t.Helper()
	s, err := c.Open(t.Context(), &hbone.Request{Method: http.MethodConnect, Authority: authority})
	if err != nil {
		t.Fatalf("CONNECT %s: %v", authority, err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// ended waits for the end of Serve.
func (w *world) ended(t testing.TB) {
	t.Helper()
	select {
	case err := <-w.served:
		if err != nil {
			t.Errorf("Serve() = %v, want nil", err)
		}
	case <-time.After(proxytest.Patience):
		t.Fatal("Serve does not end")
	}
	for _, component := range []string{"inbound", "inbound passthrough", "outbound"} {
		w.log.Wait(t, "INFO shutdown complete", "component="+component)
	}
	if n := w.pod.live.Len(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestOpenPod_PortTaken(t *testing.T) {
	w := newNode(t)
	taken := proxytest.Listen(t, outIP)
	w.Config.OutboundAddr = taken.Addr().(*net.TCPAddr).AddrPort()
	inbound := proxytest.Listen(t, podIP)
	w.Config.InboundAddr = inbound.Addr().(*net.TCPAddr).AddrPort()
	_ = inbound.Close()
	_, err := w.OpenPod(t.Context(), PodConfig{Sockets: socket.NewFactory(socket.Config{})})
	want := "outbound: failed to bind to address " + taken.Addr().String() + ": Address already in use (os error 98)"
	if err == nil || err.Error() != want {
		t.Fatalf("OpenPod() = %v, want %s", err, want)
	}
	again, err := new(net.ListenConfig).Listen(t.Context(), "tcp", w.Config.InboundAddr.String())
	if err != nil {
		t.Fatalf("what was bound before is not closed: %v", err)
	}
	_ = again.Close()
}

func TestPod_Close(t *testing.T) {
	w := newNode(t)
	pod, err := w.OpenPod(t.Context(), PodConfig{Sockets: socket.NewFactory(socket.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	if err := pod.Close(); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	for _, part := range pod.parts {
		if _, err := part.ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: Accept() = %v, want a closed listener", part.component, err)
		}
	}
}

// A drain refuses what is new, lets open connections finish, and ends with them.
func TestServe_Drain(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	w := newNode(t)
	w.open(t, time.Minute, nil)
	s := stream(t, w.tunnel(t, clientID), app.String())
	proxytest.Say(t, s, "before")
	if got := w.pod.Connections().Inbound; len(got) != 1 || got[0].ActualDst != app {
		t.Errorf("Connections() = %+v, want one to %s", got, app)
	}
	addr := w.listener("inbound").Addr().String()
	close(w.drain)
	proxytest.Until(t, "the port is closed", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	proxytest.Say(t, s, "during")
	_ = s.CloseWrite()
	if err := proxytest.Ended(s); err != nil {
		t.Errorf("the stream ended with %v, want a good end", err)
	}
	w.ended(t)
	if n := w.forced.Load(); n != 0 {
		t.Errorf("%d connections were cut, want none", n)
	}
}

// Whoever gets a connection while a drain begins is served. A client waits for
// the end of one before the next, or on a busy machine they would fill the queue
// of the listener, and the kernel would drop what comes then.
func TestServe_DrainLosesNoConnection(t *testing.T) {
	needs.Root(t) // socket.Retire
	w := newNode(t)
	w.open(t, time.Minute, nil)
	addr := w.listener("inbound").Addr().String()
	var connected atomic.Int64
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for {
				c, err := (&net.Dialer{Timeout: 300 * time.Millisecond}).DialContext(t.Context(), "tcp", addr)
				if err != nil {
					select {
					case <-w.drain:
					default:
						t.Errorf("before the drain: %v", err)
					}
					return
				}
				connected.Add(1)
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c) // a reset shows in what was served
				_ = c.Close()
			}
		})
	}
	proxytest.Until(t, "clients come and go", func() bool { return connected.Load() > 200 })
	close(w.drain)
	clients.Wait()
	w.ended(t)
	if served, want := w.log.Count("WARN connection failed", "direction=inbound"), int(connected.Load()); served != want {
		t.Errorf("%d of %d connections were served", served, want)
	}
}

func TestServe_Deadline(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	w := newNode(t)
	w.open(t, 50*time.Millisecond, nil)
	s := stream(t, w.tunnel(t, clientID), app.String())
	proxytest.Say(t, s, "before")
	close(w.drain)
	w.ended(t)
	w.log.Wait(t, "WARN drain duration expired with pending connections, forcefully shutting down")
	w.log.Wait(t, "ERROR connection complete", "error=connection closed due to connection drain")
	if n := w.forced.Load(); n != 1 {
		t.Errorf("%d connections were cut, want 1", n)
	}
}

// The end of the context is the end at once, and the log tells why.
func TestServe_Cancelled(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	w := newNode(t)
	w.open(t, time.Hour, nil)
	proxytest.Say(t, stream(t, w.tunnel(t, clientID), app.String()), "before")
	w.cancel()
	w.ended(t)
	w.log.Wait(t, "ERROR connection complete", "error=connection closed due to connection drain")
}

// stuckConn is a connection that is not read any more once it is told so.
type stuckConn struct {
	net.Conn
	stop <-chan struct{}
	end  <-chan struct{}
}

func (c *stuckConn) Read(p []byte) (int, error) {
	select {
	case <-c.stop:
		<-c.end
		return 0, net.ErrClosed
	default:
		return c.Conn.Read(p[:min(len(p), 1<<10)])
	}
}

// A peer that does not read holds up whoever writes to its tunnel, but not the
// end of the pod.
func TestServe_DeadlineWithAStuckPeer(t *testing.T) {
	w := newNode(t)
	server := w.ca.Workload(t, "spiffe://cluster.local/ns/default/sa/waypoint").ServerConfig()
	stop, end := make(chan struct{}), make(chan struct{})
	addr := proxytest.Application(t, "127.0.0.3", func(c *net.TCPConn) {
		s, err := hbone.Server(context.Background(), &stuckConn{c, stop, end}, server, nil)
		if err != nil {
			return
		}
		_ = s.Serve(context.Background(), func(_ context.Context, s *hbone.Stream) {
			_ = s.Accept(nil)
			close(stop)
			<-end
		})
	})
	t.Cleanup(func() { close(end) })
	far := proxytest.Workload("far", outIP)
	far.Waypoint = &workload.Gateway{Address: workload.NetworkAddress{Addr: addr.Addr()}, Port: addr.Port()}
	w.Store.Apply(workload.Update{Workloads: []*workload.Workload{far, proxytest.Workload("waypoint", "127.0.0.3")}})
	w.open(t, 50*time.Millisecond, nil)
	app := proxytest.Dial(t, clientIP, w.listener("outbound").Addr())
	_ = app.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	_, err := io.Copy(app, zeros{})
	if netErr, ok := errors.AsType[net.Error](err); !ok || !netErr.Timeout() {
		t.Fatalf("writing ended with %v, want everything to be full", err)
	}
	close(w.drain)
	start := time.Now()
	w.ended(t)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Serve took %v to end, want about its deadline of 50ms", took)
	}
	w.log.Wait(t, "ERROR connection complete", "error=connection closed due to connection drain")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func allow(id string) *rbac.Policy {
	principal := rbac.StringMatch{Kind: rbac.Exact, Value: strings.TrimPrefix(id, "spiffe://")}
	return &rbac.Policy{
		Name: "only", Namespace: "default", Scope: rbac.Namespace, Action: rbac.Allow,
		Rules: []rbac.Rule{{{{Principals: []rbac.StringMatch{principal}}}}},
	}
}

func TestServe_WatchesPoliciesAndTheWorkload(t *testing.T) {
	app := proxytest.Echo(t, podIP)
	const byPolicy = "error=connection closed due to policy change"
	for name, tc := range map[string]struct {
		change func(*world)
		reason string
	}{
		"policies": {func(w *world) { w.Policies.Replace([]*rbac.Policy{allow(otherID)}) }, byPolicy},
		"workload": {func(w *world) {
			web := proxytest.Workload("web", podIP)
			web.AuthorizationPolicies = []string{"default/all"}
			w.Store.Apply(workload.Update{Workloads: []*workload.Workload{web}})
		}, byPolicy},
		"trust domain": {func(w *world) {
			web := proxytest.Workload("web", podIP)
			web.TrustDomain = "example.org"
			w.Store.Apply(workload.Update{Workloads: []*workload.Workload{web}})
		}, "error=connection closed: the trust domain of the workload has changed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newNode(t)
			w.Policies.Replace([]*rbac.Policy{{
				Name: "all", Namespace: "default", Scope: rbac.WorkloadSelector, Action: rbac.Deny, Rules: []rbac.Rule{{}},
			}})
			w.open(t, time.Minute, nil)
			s := stream(t, w.tunnel(t, clientID), app.String())
			proxytest.Say(t, s, "before")
			tc.change(w)
			if err := proxytest.Ended(s); err != nil {
				t.Errorf("the stream ended with %v, want CANCEL", err)
			}
			w.log.Wait(t, "INFO connection "+clientIP, "("+clientID+")->"+app.String()+" (web) closed because it's no longer allowed after a policy update")
			w.log.Wait(t, "ERROR connection complete", tc.reason)
			close(w.drain)
			w.ended(t)
		})
	}
}

// surfaces is a telemetry surface with a page of metrics.
func (w *world) surfaces(t testing.TB, names ...string) *Surface {
	t.Helper()
	page := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "istio_build 1\n") })
	s, err := surface.New(surface.Config{Surfaces: names, Metrics: page, Profiles: page, Log: w.log.Logger()})
	if err != nil {
		t.Fatal(err)
	}
	return &Surface{Server: s, Log: w.log.Logger()}
}

// scrape reads the metrics in a stream, which stays open.
func scrape(t testing.TB, s *hbone.Stream, path string) {
	t.Helper()
	_ = s.SetDeadline(time.Now().Add(proxytest.Patience))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://web"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(s); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(s), r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || string(body) != "istio_build 1\n" {
		t.Fatalf("GET %s = %d %q, %v", path, answer.StatusCode, body, err)
	}
}

func TestSurface_Reader(t *testing.T) {
	w := newNode(t)
	s := w.surfaces(t, surface.Metrics)
	s.Shadowed = func(port uint16) bool { return port == surface.PortMetrics }
	w.open(t, time.Minute, s)
	w.Policies.Replace([]*rbac.Policy{allow(clientID)})
	c := w.tunnel(t, clientID)
	for range 2 {
		reader := stream(t, c, podIP+":15020")
		scrape(t, reader, "/metrics")
		_ = reader.CloseWrite()
		_ = proxytest.Ended(reader)
	}
	w.log.Wait(t, "INFO read", "src.identity="+clientID, "surface=metrics", "path=/metrics", "status=200")
	w.log.Wait(t, "INFO connection complete", "dst.hbone_addr="+podIP+":15020", "direction=inbound")
	if n := w.log.Count("WARN an application listens on a port of the telemetry surface", "port=15020"); n != 1 {
		t.Errorf("%d warnings of a shadowed port, want 1", n)
	}
}

func TestSurface_Refused(t *testing.T) {
	readers, err := rbac.ParsePrincipals([]string{"cluster.local/ns/default/sa/other"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		prepare   func(*world, *Surface)
		authority string
		status    int
		text      string
	}{
		"by policy": {
			func(w *world, _ *Surface) { w.Policies.Replace([]*rbac.Policy{allow(otherID)}) }, ":15020", http.StatusUnauthorized,
			"allow policies exist, but none allowed",
		},
		"by the list of readers, though policy allows": {
			func(w *world, s *Surface) { s.Readers = &readers; w.Policies.Replace([]*rbac.Policy{allow(clientID)}) }, ":15020",
			http.StatusUnauthorized, "connection closed due to policy rejection: not one of the telemetry readers",
		},
		"profiles without an allow": {
			func(*world, *Surface) {}, ":15022", http.StatusUnauthorized,
			"connection closed due to policy rejection: this telemetry surface needs an explicit allow",
		},
		"what is switched off": {func(*world, *Surface) {}, ":15023", http.StatusServiceUnavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newNode(t)
			s := w.surfaces(t, surface.Metrics, surface.Profiles)
			tc.prepare(w, s)
			w.open(t, time.Minute, s)
			_, err := w.tunnel(t, clientID).Open(t.Context(), &hbone.Request{Method: http.MethodConnect, Authority: podIP + tc.authority})
			answer, ok := errors.AsType[*hbone.StatusError](err)
			if !ok || answer.Code != tc.status {
				t.Fatalf("CONNECT = %v, want status %d", err, tc.status)
			}
			if tc.status == http.StatusUnauthorized {
				w.log.Wait(t, "WARN read denied", "src.identity="+clientID, tc.text)
				w.log.Wait(t, "ERROR connection complete", tc.text)
				return
			}
			w.log.Wait(t, "WARN connection failed", "error=this telemetry surface is not served")
		})
	}
}

// Readers of the list need no policy, also for what needs an explicit allow.
func TestSurface_ListedReader(t *testing.T) {
	readers, err := rbac.ParsePrincipals([]string{"cluster.local/ns/default/*"})
	if err != nil {
		t.Fatal(err)
	}
	w := newNode(t)
	s := w.surfaces(t, surface.Profiles)
	s.Readers = &readers
	w.open(t, time.Minute, s)
	scrape(t, stream(t, w.tunnel(t, clientID), podIP+":15022"), "/debug/pprof/")
}

// A reader that keeps its connection does not hold the drain beyond its
// deadline, and one who loses the right to read is cut.
func TestSurface_HeldConnection(t *testing.T) {
	w := newNode(t)
	w.open(t, 50*time.Millisecond, w.surfaces(t, surface.Metrics))
	kept, lost := stream(t, w.tunnel(t, clientID), podIP+":15020"), stream(t, w.tunnel(t, otherID), podIP+":15020")
	scrape(t, kept, "/metrics")
	scrape(t, lost, "/metrics")
	w.Policies.Replace([]*rbac.Policy{allow(clientID)})
	_ = proxytest.Ended(lost)
	w.log.Wait(t, "ERROR connection complete", "src.identity="+otherID, "error=connection closed due to policy change")
	scrape(t, kept, "/metrics")
	close(w.drain)
	w.ended(t)
	w.log.Wait(t, "ERROR connection complete", "src.identity="+clientID, "error=connection closed due to connection drain")
}

func TestListens(t *testing.T) {
	ln := proxytest.Listen(t, "127.0.0.1")
	if port := proxytest.Port(ln); !Listens(port) {
		t.Errorf("Listens(%d) = false while somebody does", port)
	}
	_ = ln.Close()
	if port := proxytest.Port(ln); Listens(port) {
		t.Errorf("Listens(%d) = true after the listener is closed", port)
	}
}
