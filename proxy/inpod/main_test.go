package inpod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/zdsapi"
	"ztunnel/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakePods starts proxies that do nothing, or fails to.
type fakePods struct {
	mu      sync.Mutex
	fail    map[string]error // by uid
	running []*fakePod
	stuck   bool // proxies end only when they are cut
}

// fakePod is one of them.
type fakePod struct {
	uid       string
	info      Info
	netns     *os.File
	stuck     bool
	mu        sync.Mutex
	graceful  int // calls of Drain
	immediate int
	ended     bool
	done      chan struct{}
}

func (f *fakePods) Start(_ context.Context, uid string, info Info, netns *os.File) (Running, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail[uid]; err != nil {
		return nil, err
	}
	p := &fakePod{uid: uid, info: info, netns: netns, stuck: f.stuck, done: make(chan struct{})}
	f.running = append(f.running, p)
	return p, nil
}

func (f *fakePods) failing(uid string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		f.fail = map[string]error{}
	}
	f.fail[uid] = err
}

// started lists all that were ever started.
func (f *fakePods) started() []*fakePod {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.running)
}

// live are the uids of those that have not ended, sorted.
func (f *fakePods) live() []string {
	uids := []string{}
	for _, p := range f.started() {
		p.mu.Lock()
		if !p.ended {
			uids = append(uids, p.uid)
		}
		p.mu.Unlock()
	}
	slices.Sort(uids)
	return uids
}

func (p *fakePod) Drain(immediate bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if immediate {
		p.immediate++
	} else {
		p.graceful++
	}
	if !p.ended && (immediate || !p.stuck) {
		p.ended = true
		_ = p.netns.Close()
		close(p.done)
	}
}

func (p *fakePod) Done() <-chan struct{} { return p.done }
func (p *fakePod) Connections() any      { return map[string][]int{"inbound": {}, "outbound": {}} }

// openNetns opens a file that stands for a namespace: files of different names differ, those of the same name do not.
func openNetns(t testing.TB, dir, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// agent is the other side of one connection.
type agent struct {
	t    testing.TB
	conn net.Conn
	send func(payload []byte, files ...*os.File) error
}

// exchange sends a message and returns the answer. The files are closed.
func (a *agent) exchange(m *zdsapi.WorkloadRequest, files ...*os.File) string {
	a.t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.exchangeRaw(b, files...)
}

func (a *agent) exchangeRaw(payload []byte, files ...*os.File) string {
	a.t.Helper()
	err := a.send(payload, files...)
	for _, f := range files {
		_ = f.Close()
	}
	if err != nil {
		a.t.Fatalf("send: %v", err)
	}
	response := new(zdsapi.WorkloadResponse)
	if err := proto.Unmarshal(a.receive(), response); err != nil || response.GetAck() == nil {
		a.t.Fatalf("answer %v, %v, want an ack", response, err)
	}
	return response.GetAck().GetError()
}

// receive returns the next packet, as the agent reads it.
func (a *agent) receive() []byte {
	a.t.Helper()
	buf := make([]byte, 4096)
	_ = a.conn.SetReadDeadline(time.Now().Add(proxytest.Patience))
	n, err := a.conn.Read(buf)
	if err != nil {
		a.t.Fatalf("receive: %v", err)
	}
	if n > maxPacket {
		a.t.Errorf("a packet of %d bytes, want at most %d", n, maxPacket)
	}
	return buf[:n]
}

// hello takes the introduction.
func (a *agent) hello() {
	a.t.Helper()
	if got := a.receive(); string(got) != "\x08\x01" {
		a.t.Fatalf("hello is %x, want 0801", got)
	}
}

func (a *agent) want(want, got string) {
	a.t.Helper()
	if got != want {
		a.t.Errorf("answer %q, want %q", got, want)
	}
}

func add(uid string) *zdsapi.WorkloadRequest {
	return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Add{Add: &zdsapi.AddWorkload{
		Uid: uid, WorkloadInfo: &zdsapi.WorkloadInfo{Name: "name-" + uid, Namespace: "ns", ServiceAccount: "sa"},
	}}}
}

func keep(uid string) *zdsapi.WorkloadRequest {
	return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Keep{Keep: &zdsapi.KeepWorkload{Uid: uid}}}
}

func del(uid string) *zdsapi.WorkloadRequest {
	return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Del{Del: &zdsapi.DelWorkload{Uid: uid}}}
}

func snapshot() *zdsapi.WorkloadRequest {
	return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_SnapshotSent{SnapshotSent: &zdsapi.SnapshotSent{}}}
}

// pipeConn is a connection in memory, for tests in which time is not real.
type pipeConn struct {
	net.Conn
	controls chan []byte // of the packets that were written and not yet read
}

func (c *pipeConn) ReadMsgUnix(b, control []byte) (n, controls, flags int, addr *net.UnixAddr, err error) {
	n, err = c.Read(b)
	if err != nil {
		return n, 0, 0, nil, err
	}
	return n, copy(control, <-c.controls), 0, nil, nil
}

// newPipe returns both ends of a connection in memory.
func newPipe(t testing.TB) (*agent, packetConn) {
	ours, theirs := net.Pipe()
	c := &pipeConn{ours, make(chan []byte, 1)}
	t.Cleanup(func() { _ = theirs.Close() })
	return &agent{t, theirs, func(payload []byte, files ...*os.File) error {
		var fds []int
		for _, f := range files {
			fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return err
			}
			fds = append(fds, fd)
		}
		var control []byte
		if len(fds) > 0 {
			control = unix.UnixRights(fds...)
		}
		c.controls <- control
		_, err := theirs.Write(payload)
		return err
	}}, c
}

// world is a manager with what it needs.
type world struct {
	*Manager
	pods  *fakePods
	log   *proxytest.Log
	dir   string
	mu    sync.Mutex
	ready []bool // every change
}

func newWorld(t testing.TB, path string) *world {
	w := &world{pods: &fakePods{}, log: proxytest.NewLog(), dir: t.TempDir()}
	w.Manager = New(Config{Path: path, Pods: w.pods, Log: w.log.Logger(), Ready: func(ready bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ready = append(w.ready, ready)
	}})
	return w
}

// isReady is what was told last.
func (w *world) isReady() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ready) > 0 && w.ready[len(w.ready)-1]
}

// run runs the manager until the returned function is called, which returns what Run returned.
func (w *world) run(t testing.TB) (end func() error) {
	t.Helper()
	drain := make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- w.Run(context.Background(), drain) }()
	end = sync.OnceValue(func() error { close(drain); return <-done })
	t.Cleanup(func() { _ = end() })
	return end
}

// connections hands out connections in memory: the manager gets one when the test takes the other end.
func (w *world) connections(t testing.TB) (accept func() *agent) {
	incoming := make(chan packetConn)
	w.dial = func(ctx context.Context) (packetConn, error) {
		select {
		case c := <-incoming:
			return c, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return func() *agent {
		a, c := newPipe(t)
		incoming <- c
		return a
	}
}

// states are those of the dump, as "uid state".
func (w *world) dumped() []string {
	var all []string
	for uid, s := range w.Dump() {
		all = append(all, uid+" "+s.State)
	}
	slices.Sort(all)
	return all
}

func wantList(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// openFiles are the descriptors of this process and what they lead to.
func openFiles(t testing.TB) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]string{}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			open[e.Name()] = to
		}
	}
	return open
}

// leftOpen is how many descriptors lead to files of a folder.
func leftOpen(t testing.TB, dir string) int {
	t.Helper()
	n := 0
	for _, to := range slices.Collect(maps.Values(openFiles(t))) {
		if filepath.Dir(to) == dir {
			n++
		}
	}
	return n
}

var errTaken = errors.New("failed to bind to address [::]:15008: Address already in use (os error 98)")

// counted is how often a message of a kind ended so.
func (w *world) counted(kind, result string) uint64 {
	w.metrics.mu.Lock()
	defer w.metrics.mu.Unlock()
	return w.metrics.events[event{kind, result}]
}

func (w *world) String() string { return fmt.Sprint(w.dumped()) }

// begun is a manager with an agent that has been greeted: nearly all of a session comes after that.
func begun(t testing.TB) (*world, *agent) {
	t.Helper()
	w := newWorld(t, "")
	accept := w.connections(t)
	w.run(t)
	a := accept()
	a.hello()
	return w, a
}
