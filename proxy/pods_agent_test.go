package proxy

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/zdsapi"
	"ztunnel/proxy/inpod"
	"ztunnel/proxy/needs"
	"ztunnel/proxy/proxytest"
)

// nodeAgent is the node agent's side of one connection.
type nodeAgent struct {
	t    *testing.T
	conn *net.UnixConn
}

// tell sends a message and returns the answer.
func (a *nodeAgent) tell(m *zdsapi.WorkloadRequest, netns *os.File) string {
	a.t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		a.t.Fatal(err)
	}
	var control []byte
	if netns != nil {
		control = unix.UnixRights(int(netns.Fd()))
	}
	if _, _, err := a.conn.WriteMsgUnix(b, control, nil); err != nil {
		a.t.Fatal(err)
	}
	answer := new(zdsapi.WorkloadResponse)
	if err := proto.Unmarshal(a.read(), answer); err != nil || answer.GetAck() == nil {
		a.t.Fatalf("answer %v, %v, want an ack", answer, err)
	}
	return answer.GetAck().GetError()
}

func (a *nodeAgent) read() []byte {
	a.t.Helper()
	b := make([]byte, 1024)
	_ = a.conn.SetReadDeadline(time.Now().Add(proxytest.Patience))
	n, err := a.conn.Read(b)
	if err != nil {
		a.t.Fatal(err)
	}
	return b[:n]
}

func addPod(uid string) *zdsapi.WorkloadRequest {
	told := &zdsapi.WorkloadInfo{Name: info.Name, Namespace: info.Namespace, ServiceAccount: info.ServiceAccount}
	return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Add{Add: &zdsapi.AddWorkload{Uid: uid, WorkloadInfo: told}}}
}

func delPod(uid string) *zdsapi.WorkloadRequest {
	return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Del{Del: &zdsapi.DelWorkload{Uid: uid}}}
}

// serveAgent runs a manager for the pods and returns the agent's side.
func serveAgent(t *testing.T, ps *Pods) (*nodeAgent, *inpod.Manager) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "zds")
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	m := inpod.New(inpod.Config{Path: path, Pods: ps})
	drain, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- m.Run(context.Background(), drain) }()
	conn, err := ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(drain)
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		conn.Close()
	})
	a := &nodeAgent{t, conn}
	a.read() // the hello
	return a, m
}

// A pod that the agent names is served when the agent has its answer, and not any more when it has that to the deletion. It can
// come back at once, also where ports are not shared.
func TestPods_WithTheAgent(t *testing.T) {
	needs.Root(t)
	w, ps := newPods(t)
	w.Config.InpodPortReuse = false
	a, m := serveAgent(t, ps)
	one, two := netns(t), netns(t)
	if got := a.tell(&zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_SnapshotSent{SnapshotSent: &zdsapi.SnapshotSent{}}}, nil); got != "" {
		t.Fatal(got)
	}
	if got := a.tell(addPod("a"), one); got != "" {
		t.Fatalf("adding a pod: %q", got)
	}
	wantPorts(t, one, "127.0.0.1", 4)
	for range 10 {
		if got := a.tell(delPod("a"), nil); got != "" {
			t.Fatalf("deleting a pod: %q", got)
		}
		wantPorts(t, one, "127.0.0.1", 0)
		if got := a.tell(addPod("a"), one); got != "" {
			t.Fatalf("adding it again: %q", got)
		}
	}
	if got := a.tell(addPod("a"), two); got != "" {
		t.Fatalf("adding it in another namespace: %q", got)
	}
	wantPorts(t, one, "127.0.0.1", 0)
	wantPorts(t, two, "127.0.0.1", 4)
	if state := m.Dump()["a"]; state.State != inpod.Up || state.Info != info || state.Connections == nil {
		t.Errorf("dump %+v, want %+v up", state, info)
	}
	taken, _, err := inside(one).Listen(t.Context(), w.Config.OutboundAddr, new(bool))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	want := "failure to start proxy : outbound: failed to bind to address [::]:15001: Address already in use (os error 98)"
	if got := a.tell(addPod("b"), one); got != want {
		t.Errorf("answer %q, want %q", got, want)
	}
	if state := m.Dump()["b"]; state.State != inpod.Pending || state.Connections != nil {
		t.Errorf("dump %+v, want it pending", state)
	}
}

// The agent has its answers quickly.
func TestPods_AnswersQuickly(t *testing.T) {
	needs.Root(t)
	_, ps := newPods(t)
	a, _ := serveAgent(t, ps)
	var times []time.Duration
	for i := range 100 {
		ns := netns(t)
		begin := time.Now()
		if got := a.tell(addPod(strconv.Itoa(i)), ns); got != "" {
			t.Fatal(got)
		}
		times = append(times, time.Since(begin))
	}
	slices.Sort(times)
	t.Logf("answers after %v, 95 of 100 in %v, all in %v", times[50], times[95], times[99])
	if times[50] > 1500*time.Microsecond {
		t.Errorf("the answer takes %v, want at most 1.5 ms", times[50])
	}
}
