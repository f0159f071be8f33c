package mesh

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ztunnel/proxy/needs"
)

// links are the interfaces of the namespace that the test runs in.
func links(t *testing.T) string {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		line := i.Name
		for _, a := range addrs {
			line += " " + a.String()
		}
		names = append(names, line)
	}
	return strings.Join(names, "\n")
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestNothingIsLeft(t *testing.T) {
	needs.Root(t)
	host, files := links(t), 0
	for round := range 2 {
		m, err := New()
		if err != nil {
			t.Fatal(err)
		}
		pod := addPod(t, addNode(t, m, "node-1"), "pod")
		sleep, err := pod.Start(Command{Path: "/bin/sleep", Args: []string{"1000"}, LogFile: filepath.Join(t.TempDir(), "log")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pod.Node.Capture(); err != nil {
			t.Fatal(err)
		}
		if now := links(t); now != host {
			t.Errorf("with a mesh, the host has\n%s\nwant\n%s", now, host)
		}
		if err := m.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		select {
		case <-sleep.Ended():
		default:
			t.Error("the process is there after Close")
		}
		if _, err := m.AddNode("late"); !errors.Is(err, errClosed) {
			t.Errorf("AddNode after Close = %v, want %v", err, errClosed)
		}
		// The first round opens what the process keeps, such as epoll.
		if now := openFiles(t); round == 0 {
			files = now
		} else if now > files {
			t.Errorf("%d files are open after a mesh, want %d", now, files)
		}
	}
}

func TestProcess(t *testing.T) {
	m := newMesh(t)
	pod := addPod(t, addNode(t, m, "node-1"), "pod")
	dir := t.TempDir()
	p, err := pod.Start(Command{
		Path: "/bin/sh", Args: []string{"-c", `trap 'echo "bye $X"; exit 3' TERM; readlink /proc/self/ns/net; while :; do sleep 0.02; done`},
		Env: []string{"X=x", "PATH=/usr/bin:/bin"}, LogFile: filepath.Join(dir, "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	var want string
	if err := pod.Do(func() (err error) { want, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := p.Log.Await(ctx, 0, func(line string) bool { return strings.HasPrefix(line, "net:") })
	if err != nil || got != want {
		t.Errorf("the process is in namespace %q, %v, want %q", got, err, want)
	}
	if home, _ := os.Readlink("/proc/thread-self/ns/net"); home == want {
		t.Error("the thread of the test is in the pod's namespace")
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(ctx); err == nil || err.Error() != "exit status 3" {
		t.Errorf("Wait() = %v, want exit status 3", err)
	}
	content, err := os.ReadFile(p.Log.Path)
	if err != nil || string(content) != want+"\nbye x\n" {
		t.Errorf("log file = %q, %v", content, err)
	}
	if tail := p.Log.Tail(1); len(tail) != 1 || tail[0] != "bye x" {
		t.Errorf("Tail(1) = %q, want bye x", tail)
	}
}

func TestCapture(t *testing.T) {
	m := newMesh(t)
	client := addPod(t, addNode(t, m, "node-1"), "client")
	server := addPod(t, addNode(t, m, "node-2"), "server")
	listen(t, server, 8080, nil)
	for _, addr := range server.Addrs() {
		capture, err := client.Node.Capture()
		if err != nil {
			t.Fatal(err)
		}
		to := netip.AddrPortFrom(addr, 8080)
		c, err := client.Dial(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("the secret")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		from := c.LocalAddr().(*net.TCPAddr).AddrPort()
		c.Close()
		packets, err := capture.Stop()
		if err != nil {
			t.Fatal(err)
		}
		if packets.Lost != 0 || packets.Count([]byte("the secret")) != 1 || packets.Count([]byte("another")) != 0 {
			t.Errorf("%d packets, %d lost, secret found %d times, want 0 lost, found once", packets.Len(), packets.Lost, packets.Count([]byte("the secret")))
		}
		if ports := packets.Ports(); len(ports) != 1 || ports[0] != 8080 || packets.Elsewhere(8080) != 0 {
			t.Errorf("Ports() = %v, want [8080]", ports)
		}
		if n := len(packets.Streams()); n != 2 {
			t.Errorf("%d streams, want both sides of one connection", n)
		}
		for _, s := range packets.Streams() {
			want := "the secret"
			if s.From == to {
				want = "at 8080"
			} else if s.From != from {
				t.Errorf("stream from %v, want %v or %v", s.From, from, to)
			}
			if !s.Complete || !bytes.Equal(s.Data, []byte(want)) {
				t.Errorf("stream from %v = %q, complete %t, want %q", s.From, s.Data, s.Complete, want)
			}
		}
	}
}

func TestRemovePod(t *testing.T) {
	m := newMesh(t)
	node := addNode(t, m, "node-1")
	stays := addPod(t, node, "stays")
	listen(t, stays, 8080, nil)
	goes := addPod(t, node, "goes")
	dial(t, goes, netip.AddrPortFrom(stays.Addr, 8080))
	for range 2 {
		if err := goes.Remove(); err != nil {
			t.Fatalf("Remove() = %v, want nil", err)
		}
	}
	ports := func() (n int) {
		if err := node.Do(func() error {
			all, err := net.Interfaces()
			for _, i := range all {
				if strings.HasPrefix(i.Name, "pod") {
					n++
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := ports(); n != 1 {
		t.Errorf("the node has %d pods' links after one of two was removed, want 1", n)
	}
	// An address is used again only after all others.
	seen := map[netip.Addr]bool{}
	for range 2 * maxPods {
		number, err := node.take()
		if err != nil {
			t.Fatal(err)
		}
		if addr := netip.AddrFrom4([4]byte{10, 64, byte(node.number), byte(10 + number)}); addr == stays.Addr || len(seen) == 0 && addr == goes.Addr {
			t.Fatalf("address %s is given out, it should not be", addr)
		} else {
			seen[addr] = true
		}
		node.give(number)
	}
	if len(seen) != maxPods-1 {
		t.Errorf("%d addresses were given out, want all but one of %d", len(seen), maxPods)
	}
	for range maxPods - 1 {
		if _, err := node.take(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := node.AddPod("too many"); err == nil {
		t.Error("AddPod to a full node = nil, want an error")
	}
}
