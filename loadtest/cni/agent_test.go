package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/zdsapi"
	"ztunnel/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patient is a timing in which nothing happens because time passed.
var patient = timing{accept: time.Millisecond, answer: time.Minute, idle: time.Minute, probe: time.Minute}

// serve runs an agent until the test ends, and returns it with its socket.
func serve(t *testing.T, times timing) (*Agent, string) {
	t.Helper()
	a := New(Config{})
	a.times = times
	path := filepath.Join(t.TempDir(), "sock")
	run(t, a, path)
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	return a, path
}

// run serves at path until stop is called or the test ends.
func run(t *testing.T, a *Agent, path string) (stop func()) {
	t.Helper()
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, ln) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v, want nil", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// ztunnel is the other end, in the test's own hand.
type ztunnel struct {
	t      *testing.T
	socket *net.UnixConn
}

func connect(t *testing.T, path string) *ztunnel {
	t.Helper()
	socket, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	_ = socket.SetDeadline(time.Now().Add(30 * time.Second))
	return &ztunnel{t: t, socket: socket}
}

func (z *ztunnel) write(packet string) {
	z.t.Helper()
	if _, err := z.socket.Write([]byte(packet)); err != nil {
		z.t.Fatal(err)
	}
}

const hello, ack = "\x08\x01", "\x0a\x00"

// read reads a request and returns it in short, with the inode of its
// descriptor: "add UID NAMESPACE/NAME/ACCOUNT INODE", "del UID" or "sent".
func (z *ztunnel) read() (string, error) {
	packet, control := make([]byte, 1024), make([]byte, 128)
	n, oobn, flags, _, err := z.socket.ReadMsgUnix(packet, control)
	if err != nil {
		return "", err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return "", errors.New("truncated")
	}
	var r zdsapi.WorkloadRequest
	if err := proto.Unmarshal(packet[:n], &r); err != nil {
		return "", err
	}
	var inodes []string
	messages, err := unix.ParseSocketControlMessage(control[:oobn])
	if err != nil {
		return "", err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return "", err
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "received")
			inodes = append(inodes, inode(f))
			f.Close()
		}
	}
	text := "sent"
	switch p := r.GetPayload().(type) {
	case *zdsapi.WorkloadRequest_Add:
		i := p.Add.GetWorkloadInfo()
		text = "add " + p.Add.GetUid() + " " + i.GetNamespace() + "/" + i.GetName() + "/" + i.GetServiceAccount()
	case *zdsapi.WorkloadRequest_Del:
		text = "del " + p.Del.GetUid()
	case *zdsapi.WorkloadRequest_Keep:
		text = "keep " + p.Keep.GetUid()
	}
	return strings.Join(append([]string{text}, inodes...), " "), nil
}

func inode(f *os.File) string {
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	return strconv.FormatUint(info.Sys().(*syscall.Stat_t).Ino, 10)
}

// added is how the request reads that tells of a pod.
func added(p Pod) string {
	return "add " + p.UID + " " + p.Namespace + "/" + p.Name + "/" + p.ServiceAccount + " " + inode(p.NetNS)
}

// want reads requests, which must be these, and answers each with an ack.
func (z *ztunnel) want(requests ...string) {
	z.t.Helper()
	for _, want := range requests {
		z.wantUnanswered(want)
		z.write(ack)
	}
}

func (z *ztunnel) wantUnanswered(want string) {
	z.t.Helper()
	if got, err := z.read(); err != nil || got != want {
		z.t.Fatalf("request = %q, %v, want %q", got, err, want)
	}
}

func (z *ztunnel) wantEnd() {
	z.t.Helper()
	if got, err := z.read(); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		z.t.Fatalf("request = %q, %v, want the end", got, err)
	}
}

// pod is one whose namespace is a file of the pod's name.
func pod(t *testing.T, name string) Pod {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return Pod{UID: "uid-" + name, Name: name, Namespace: "ns", ServiceAccount: "sa", NetNS: f}
}

// wantStats waits until the agent's counters are these.
func wantStats(t *testing.T, a *Agent, want Stats) {
	t.Helper()
	var diff string
	defer func() {
		if t.Failed() {
			t.Logf("Stats() (-want +got):\n%s", diff)
		}
	}()
	proxytest.Until(t, fmt.Sprintf("Stats() = %+v", want), func() bool {
		diff = cmp.Diff(want, a.Stats())
		return diff == ""
	})
}

// later runs f beside the test, which waits for its result.
func later(f func() error) <-chan error {
	result := make(chan error, 1)
	go func() { result <- f() }()
	return result
}

func TestSnapshotThenChanges(t *testing.T) {
	a, path := serve(t, patient)
	one, two, three := pod(t, "one"), pod(t, "two"), pod(t, "three")
	for _, p := range []Pod{one, two} {
		if err := a.Add(t.Context(), p); !errors.Is(err, ErrNoProxy) {
			t.Fatalf("Add() = %v, want %v", err, ErrNoProxy)
		}
		p.NetNS.Close() // the agent has its own
	}
	if err := a.Remove(t.Context(), "uid-one"); err != nil {
		t.Fatalf("Remove() = %v, want nil", err)
	}
	again := pod(t, "one")
	if err := a.Add(t.Context(), again); !errors.Is(err, ErrNoProxy) {
		t.Fatalf("Add() = %v, want %v", err, ErrNoProxy)
	}

	z := connect(t, path)
	z.write(hello)
	two.NetNS = again.NetNS // closed; its inode is what the snapshot must not have
	if got, err := z.read(); err != nil || !strings.HasPrefix(got, "add uid-two ns/two/sa ") || got == added(two) {
		t.Fatalf("request = %q, %v, want pod two with its own namespace", got, err)
	}
	// Told of only after the snapshot, and known already.
	adding := later(func() error { return a.Add(t.Context(), three) })
	wantStats(t, a, Stats{Pods: 3, Connections: 1, Connects: 1})
	z.write(ack)
	z.want(added(again), "sent", added(three))
	if err := <-adding; err != nil {
		t.Errorf("Add() = %v, want nil", err)
	}
	removing := later(func() error { return a.Remove(t.Context(), "uid-two") })
	z.want("del uid-two")
	if err := <-removing; err != nil {
		t.Errorf("Remove() = %v, want nil", err)
	}
	wantStats(t, a, Stats{Pods: 2, Connections: 1, Synced: 1, Connects: 1, Adds: 3, Dels: 1})
}

func TestSeveralProxies(t *testing.T) {
	times := patient
	times.idle, times.probe = 10*time.Millisecond, 5*time.Millisecond
	a, path := serve(t, times)
	old := connect(t, path)
	old.write(hello)
	old.want("sent")
	young := connect(t, path)
	young.write(hello)
	young.want("sent")

	p := pod(t, "p")
	adding := later(func() error { return a.Add(t.Context(), p) })
	young.want(added(p))
	if err := <-adding; err != nil {
		t.Fatalf("Add() = %v, want nil", err)
	}
	removing := later(func() error { return a.Remove(t.Context(), p.UID) })
	old.want("del uid-p") // and has not been told that it came
	young.want("del uid-p")
	if err := <-removing; err != nil {
		t.Fatalf("Remove() = %v, want nil", err)
	}

	young.socket.Close()
	wantConnections(t, a, 1)
	adding = later(func() error { return a.Add(t.Context(), p) })
	old.want(added(p))
	if err := <-adding; err != nil {
		t.Fatalf("Add() = %v, want nil", err)
	}
}

func wantConnections(t *testing.T, a *Agent, want int) {
	t.Helper()
	proxytest.Until(t, fmt.Sprintf("%d connections", want), func() bool { return a.Stats().Connections == want })
}

func TestRefused(t *testing.T) {
	a, path := serve(t, patient)
	z := connect(t, path)
	z.write(hello)
	z.want("sent")
	p := pod(t, "p")
	for range 2 { // the connection stays, and so does the pod
		adding := later(func() error { return a.Add(t.Context(), p) })
		z.wantUnanswered(added(p))
		z.write("\x0a\x04\x0a\x02no")
		var refused *RefusedError
		if err := <-adding; !errors.As(err, &refused) || refused.Reason != "no" {
			t.Fatalf("Add() = %v, want refused: no", err)
		}
	}
	removing := later(func() error { return a.Remove(t.Context(), p.UID) })
	z.wantUnanswered("del uid-p")
	z.write("\x0a\x04\x0a\x02no")
	var refused *RefusedError
	if err := <-removing; !errors.As(err, &refused) {
		t.Fatalf("Remove() = %v, want refused", err)
	}
	wantStats(t, a, Stats{Connections: 1, Synced: 1, Connects: 1, Refused: 3})
}

// A pod that is refused within the snapshot does not end it.
func TestRefusedInSnapshot(t *testing.T) {
	a, path := serve(t, patient)
	p := pod(t, "p")
	_ = a.Add(t.Context(), p)
	z := connect(t, path)
	z.write(hello)
	z.wantUnanswered(added(p))
	z.write("\x0a\x04\x0a\x02no")
	z.want("sent")
	wantStats(t, a, Stats{Pods: 1, Connections: 1, Synced: 1, Connects: 1, Refused: 1})
}

// What makes a connection useless ends it; the pod is in the next snapshot.
func TestBrokenAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"garbage":   "\xff\xff\xff",
		"no ack":    "\x12\x00",
		"too long":  "\x0a\x84\x08\x0a\x81\x08" + strings.Repeat("x", 1025),
		"end":       "",
		"too late":  "late",
		"two hello": hello,
	} {
		t.Run(name, func(t *testing.T) {
			times := patient
			if name == "too late" {
				times.answer = 50 * time.Millisecond
			}
			a, path := serve(t, times)
			z := connect(t, path)
			z.write(hello)
			z.want("sent")
			p := pod(t, "p")
			adding := later(func() error { return a.Add(t.Context(), p) })
			z.wantUnanswered(added(p))
			switch answer {
			case "":
				z.socket.Close()
			case "late":
			default:
				z.write(answer)
			}
			if err := <-adding; !errors.Is(err, ErrNoProxy) {
				t.Fatalf("Add() = %v, want %v", err, ErrNoProxy)
			}
			if answer != "" {
				z.wantEnd()
			}
			next := connect(t, path)
			next.write(hello)
			next.want(added(p), "sent")
		})
	}
}

func TestHello(t *testing.T) {
	for name, packet := range map[string]string{"version 0": "\x08\x00", "version 2": "\x08\x02", "garbage": "\xff", "too long": strings.Repeat("x", 2000)} {
		t.Run(name, func(t *testing.T) {
			a, path := serve(t, patient)
			z := connect(t, path)
			z.write(packet)
			z.wantEnd()
			wantStats(t, a, Stats{Rejected: 1})
		})
	}
	t.Run("none", func(t *testing.T) {
		times := patient
		times.answer = 20 * time.Millisecond
		a, path := serve(t, times)
		connect(t, path).wantEnd()
		wantStats(t, a, Stats{Rejected: 1})
	})
}

func TestProbe(t *testing.T) {
	times := patient
	times.idle, times.probe = 10*time.Millisecond, 5*time.Millisecond
	a, path := serve(t, times)
	quiet := connect(t, path)
	quiet.write(hello)
	quiet.want("sent")
	gone := connect(t, path)
	gone.write(hello)
	gone.want("sent")
	gone.socket.Close()
	loud := connect(t, path)
	loud.write(hello)
	loud.want("sent")
	loud.write(ack)
	loud.wantEnd()
	wantStats(t, a, Stats{Connections: 1, Synced: 1, Connects: 3, Broken: 1})
	removing := later(func() error { return a.Remove(t.Context(), "u") })
	quiet.want("del u")
	if err := <-removing; err != nil {
		t.Errorf("Remove() = %v, want nil", err)
	}
}

// An agent that is started again at the same path still knows its pods.
func TestRestart(t *testing.T) {
	a := New(Config{})
	a.times = patient
	path := filepath.Join(t.TempDir(), "sock")
	stop := run(t, a, path)
	z := connect(t, path)
	z.write(hello)
	z.want("sent")
	p := pod(t, "p")
	adding := later(func() error { return a.Add(t.Context(), p) })
	z.want(added(p))
	if err := <-adding; err != nil {
		t.Fatal(err)
	}
	stop()
	z.wantEnd()
	run(t, a, path)
	z = connect(t, path)
	z.write(hello)
	z.want(added(p), "sent")
	if err := a.Close(); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
}

func TestAddNeedsNamespace(t *testing.T) {
	a := New(Config{})
	if err := a.Add(t.Context(), Pod{UID: "u"}); err == nil || errors.Is(err, ErrNoProxy) {
		t.Errorf("Add() without a namespace = %v, want an error of its own", err)
	}
	if got := a.Stats().Pods; got != 0 {
		t.Errorf("Stats().Pods = %d, want 0", got)
	}
}

// A caller that does not wait any more holds up nobody.
func TestAddCancelled(t *testing.T) {
	a, path := serve(t, patient)
	z := connect(t, path)
	z.write(hello)
	z.wantUnanswered("sent")
	ctx, cancel := context.WithCancel(t.Context())
	p := pod(t, "p")
	adding := later(func() error { return a.Add(ctx, p) })
	wantStats(t, a, Stats{Pods: 1, Connections: 1, Connects: 1})
	cancel()
	if err := <-adding; !errors.Is(err, context.Canceled) {
		t.Fatalf("Add() = %v, want %v", err, context.Canceled)
	}
	z.write(ack)
	wantStats(t, a, Stats{Pods: 1, Connections: 1, Synced: 1, Connects: 1})
}

func FuzzVerdict(f *testing.F) {
	for _, packet := range []string{ack, "", "\x0a\x04\x0a\x02no", "\xff", hello} {
		f.Add([]byte(packet))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		err := verdict(packet)
		var answer zdsapi.WorkloadResponse
		success := proto.Unmarshal(packet, &answer) == nil && answer.GetAck() != nil && answer.GetAck().GetError() == ""
		if (err == nil) != success {
			t.Errorf("verdict(%q) = %v, want success %v", packet, err, success)
		}
	})
}
