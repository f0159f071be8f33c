package inpod

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/zdsapi"
	"ztunnel/proxy/needs"
	"ztunnel/proxy/proxytest"
)

// realAgent listens as the node agent does.
func realAgent(t testing.TB) (path string, accept func() *agent) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "zds")
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return path, func() *agent {
		t.Helper()
		conn, err := ln.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return &agent{t, conn, func(payload []byte, files ...*os.File) error {
			var fds []int
			for _, f := range files {
				fds = append(fds, int(f.Fd()))
			}
			var control []byte
			if len(fds) > 0 {
				control = unix.UnixRights(fds...)
			}
			_, _, err := conn.WriteMsgUnix(payload, control, nil)
			return err
		}}
	}
}

func encode(t testing.TB, m *zdsapi.WorkloadRequest) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What crosses the socket is what the agent expects, byte by byte, and the descriptor is not inherited by programs.
func TestSocket_Session(t *testing.T) {
	path, accept := realAgent(t)
	w := newWorld(t, path)
	end := w.run(t)
	a := accept()
	a.hello()
	netns := openNetns(t, w.dir, "1")
	if err := a.send(encode(t, add("a")), netns); err != nil {
		t.Fatal(err)
	}
	_ = netns.Close()
	if got := a.receive(); string(got) != "\x0a\x00" {
		t.Errorf("answer %x, want 0a00", got)
	}
	p := w.pods.started()[0]
	if want := (Info{"name-a", "ns", "sa"}); p.info != want || p.uid != "a" {
		t.Errorf("started %s with %+v, want a with %+v", p.uid, p.info, want)
	}
	if flags, err := unix.FcntlInt(p.netns.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags of the descriptor %#x, %v, want close-on-exec", flags, err)
	}
	if got := a.exchangeRaw([]byte{0x1a, 0x00}); got != "" {
		t.Errorf("answer %q to the end of the snapshot", got)
	}
	proxytest.Until(t, "it is ready", w.isReady)
	_ = a.conn.Close()
	a = accept()
	a.hello()
	proxytest.Until(t, "it is not ready", func() bool { return !w.isReady() })
	a.want("", a.exchange(add("a"), openNetns(t, w.dir, "1"))) // another descriptor of the same namespace
	if n := len(w.pods.started()); n != 1 {
		t.Errorf("%d proxies were started, want 1", n)
	}
	if err := end(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if n := leftOpen(t, w.dir); n != 0 {
		t.Errorf("%d descriptors are left open", n)
	}
}

// A message that cannot be read is refused, the connection is made anew, and no descriptor stays open.
func TestSocket_Unreadable(t *testing.T) {
	path, accept := realAgent(t)
	w := newWorld(t, path)
	w.run(t)
	a := accept()
	a.hello()
	a.want("", a.exchange(add("a"), openNetns(t, w.dir, "a")))
	a.want("", a.exchange(snapshot()))
	long := encode(t, add(strings.Repeat("x", 1100)))
	for _, tc := range []struct {
		name    string
		payload []byte
		files   int
		want    string
	}{
		{"garbage", []byte{0xff, 0xff, 0xff}, 0, "decode message: "},
		{"no payload", []byte{0x32, 0x00}, 1, "no payload"}, // an unknown field: an empty packet is the end of the connection
		{"addition without a file", encode(t, add("x")), 0, "No control message"},
		{"two files", encode(t, add("x")), 2, "Expected 1 FD, got 2"},
		{"ten files", encode(t, add("x")), 10, "Expected 1 FD, got "},
		{"deletion with a file", encode(t, del("x")), 1, "Unexpected control message"},
		{"snapshot with a file", encode(t, snapshot()), 1, "Unexpected control message"},
		{"keep with a file", encode(t, keep("x")), 1, "Unexpected control message"},
		{"too long", long, 1, "received truncated message"},
		{"cut off", encode(t, add("x"))[:5], 1, "decode message: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a.t = t
			var files []*os.File
			for range tc.files {
				files = append(files, openNetns(t, w.dir, "x"))
			}
			if got := a.exchangeRaw(tc.payload, files...); !strings.HasPrefix(got, "failure to read message : "+tc.want) {
				t.Errorf("answer %q, want a refusal because of %q", got, tc.want)
			}
			if _, err := a.conn.Read(make([]byte, 1)); err == nil {
				t.Error("the connection goes on")
			}
			a = accept()
			a.hello()
			a.want("", a.exchange(keep("a")))
			a.want("", a.exchange(snapshot()))
			if n := leftOpen(t, w.dir); n != 1 {
				t.Errorf("%d descriptors are open, want 1", n)
			}
		})
	}
	wantList(t, "served", w.pods.live(), "a")
	if n := w.counted("unreadable", "error"); n != 10 {
		t.Errorf("%d messages were counted as unreadable, want 10", n)
	}
}

// An empty packet with a descriptor is taken as the end of the connection, and leaves nothing open.
func TestSocket_EmptyPacketWithFile(t *testing.T) {
	path, accept := realAgent(t)
	w := newWorld(t, path)
	w.run(t)
	a := accept()
	a.hello()
	f := openNetns(t, w.dir, "1")
	if err := a.send(nil, f); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	a = accept()
	a.hello()
	if n := leftOpen(t, w.dir); n != 0 {
		t.Errorf("%d descriptors are open, want none", n)
	}
}

// A descriptor that came with credentials, which nobody asked for, is taken.
func TestTakeFiles_OtherControlMessages(t *testing.T) {
	dir := t.TempDir()
	f := openNetns(t, dir, "1")
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	log := proxytest.NewLog()
	control := slices.Concat(unix.UnixCredentials(&unix.Ucred{Pid: 1}), unix.UnixRights(fd))
	files, err := takeFiles(control, log.Logger())
	if err != nil || len(files) != 1 {
		t.Fatalf("takeFiles() = %v, %v, want one file", files, err)
	}
	_ = files[0].Close()
	if !log.Has("WARN Unexpected control message") {
		t.Error("credentials were not warned of")
	}
	if _, err := takeFiles(make([]byte, 32), log.Logger()); err == nil {
		t.Error("takeFiles of garbage succeeded")
	}
}

func TestCheckCapabilities(t *testing.T) {
	needs.Root(t)
	if err := CheckCapabilities(0x539); err != nil {
		t.Errorf("CheckCapabilities() = %v, want nil", err)
	}
}

// Any packet either is a message that is complete or is refused.
func FuzzDecode(f *testing.F) {
	for _, m := range []*zdsapi.WorkloadRequest{add("uid"), keep("uid"), del("uid"), snapshot(), {}} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, 0, uint8(0))
		f.Add(b, 0, uint8(1))
	}
	f.Add([]byte{0x0a, 0xff}, unix.MSG_TRUNC, uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, flags int, n uint8) {
		files := make([]*os.File, n%4)
		for i := range files {
			files[i] = os.Stdin // never used
		}
		m, err := decode(data, flags, files)
		if (m == nil) == (err == nil) {
			t.Fatalf("decode() = %v, %v", m, err)
		}
		if err != nil {
			if text := fit(err.Error()); len(text) > maxAnswer {
				t.Errorf("an answer of %d bytes", len(text))
			}
			return
		}
		if m.Payload == nil || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || (m.netns != nil) != (len(files) == 1) || (m.netns != nil) != (kind(m) == "add") {
			t.Errorf("decode(%x, %#x, %d files) took %v", data, flags, len(files), m)
		}
	})
}

// Errors of the connection are no messages.
func TestRead_ConnectionError(t *testing.T) {
	a, c := newPipe(t)
	_ = a.conn.Close()
	if _, err := read(c, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("read of a closed connection succeeded")
	} else if _, unreadable := errors.AsType[*readError](err); unreadable {
		t.Errorf("read = %v, which looks like a message", err)
	}
}
