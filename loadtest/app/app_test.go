package app

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ztunnel/loadtest/mesh"
	"ztunnel/proxy/needs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPayload(t *testing.T) {
	secret := []byte("the secret of the shop")
	for size, want := range map[int]int{64: 1, 1000: 3, 100_271: 3} { // in 64 bytes, they overlap
		b := Payload(secret, size)
		if got := bytes.Count(b, secret); len(b) != size || got < want {
			t.Errorf("Payload(%d) has %d bytes with the secret %d times, want %d times", size, len(b), got, want)
		}
	}
}

func TestRetry(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	if err := Retry(ctx, time.Millisecond, func() error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return nil
	}); err != nil || tries != 3 {
		t.Errorf("Retry = %v after %d tries, want nil after 3", err, tries)
	}
	never := errors.New("never")
	if err := Retry(ctx, time.Millisecond, func() error { cancel(); return never }); !errors.Is(err, never) {
		t.Errorf("Retry until the end = %v, want %v", err, never)
	}
}

// place is a namespace to talk in, and the address of applications in it.
func place(t *testing.T) (*mesh.Pod, netip.AddrPort) {
	t.Helper()
	needs.Root(t)
	m, err := mesh.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	node, err := m.AddNode("node")
	if err != nil {
		t.Fatal(err)
	}
	pod, err := node.AddPod("pod")
	if err != nil {
		t.Fatal(err)
	}
	return pod, netip.AddrPortFrom(pod.Addr, 7)
}

func TestEcho(t *testing.T) {
	pod, to := place(t)
	var apps Apps
	defer apps.Close()
	if err := apps.Echo(t.Context(), pod.Namespace, 7); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 1 << 20} {
		got, err := Say(t.Context(), pod.Namespace, to, make([]byte, size))
		if err != nil || got.Request != size || got.Response != size+len(goodbye(int64(size))) || got.To != to {
			t.Errorf("Say(%d bytes) = %+v, %v", size, got, err)
		}
	}
	s, err := Open(t.Context(), pod.Namespace, to)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Ping(), s.Ping(), s.Finish()); err != nil || s.Pings != 3 {
		t.Errorf("a session of %d pings ended with %v, want 3 and nil", s.Pings, err)
	}
	lost, err := Open(t.Context(), pod.Namespace, to)
	if err != nil {
		t.Fatal(err)
	}
	lost.Pings++ // as if a ping had not arrived
	if err := lost.Finish(); err == nil || !strings.Contains(err.Error(), "last words") {
		t.Errorf("Finish after a loss = %v, want an error about the last words", err)
	}
	cut, err := Open(t.Context(), pod.Namespace, to)
	if err != nil {
		t.Fatal(err)
	}
	defer cut.Close()
	if _, err := UntilCut(cut, time.Now(), time.Millisecond); err == nil {
		t.Error("UntilCut of an open connection = nil, want an error")
	}
	apps.Close()
	if _, err := UntilCut(cut, time.Now(), time.Second); err != nil {
		t.Errorf("UntilCut = %v, want nil: the application has ended", err)
	}
	if _, err := Say(t.Context(), pod.Namespace, to, []byte("late")); err == nil {
		t.Error("Say after Close = nil, want an error")
	}
}
