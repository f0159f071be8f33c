package istiod

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// pair is a connection that gathers, and its peer.
func pair(t *testing.T, gather time.Duration) (*pacedConn, *net.TCPConn) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	peer, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	c, err := newPacedConn(conn, gather)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	return c, peer
}

// exchange has the peer send so many bytes and reads them, n times. It returns how often the read was held up.
func exchange(t *testing.T, c *pacedConn, peer *net.TCPConn, size, n int) (held int) {
	t.Helper()
	buf := make([]byte, size+1)
	for range n {
		if _, err := peer.Write(buf[:size]); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Read(buf); err != nil || got != size {
			t.Fatalf("Read = %d, %v, want %d bytes", got, err, size)
		}
		if c.held {
			held++
		}
	}
	return held
}

// slow is a pace at which no test can earn a read while it runs.
const slow = time.Hour

// exhausted is a connection whose next read is held up for long.
func exhausted(t *testing.T) (*pacedConn, *net.TCPConn) {
	t.Helper()
	c, peer := pair(t, slow)
	if held := exchange(t, c, peer, 1, gatherBurst+1); held != 0 { // the first took no time to pay for
		t.Fatalf("%d reads of a burst were held up, want none", held)
	}
	return c, peer
}

// A burst is not held up; after it, reads come one in the time.
func TestGather_Pace(t *testing.T) {
	const gather, paced = 10 * time.Millisecond, 10
	c, peer := pair(t, gather)
	start := time.Now()
	exchange(t, c, peer, 1, gatherBurst)
	burst := time.Since(start)
	exchange(t, c, peer, gatherWorth, paced)
	if took, least := time.Since(start)-burst, (paced-2)*gather-burst; took < least {
		t.Errorf("%d reads after a burst took %v, want at least %v", paced, took, least)
	}
	if got := lowat(t, c); got != 1 {
		t.Errorf("SO_RCVLOWAT = %d outside of a wait, want 1", got)
	}
}

// Which reads are held up depends on when they come, and on what the waits bring.
func TestGather_Pay(t *testing.T) {
	c, _ := pair(t, slow)
	now := time.Now()
	for n := range gatherBurst + 1 { // the first takes no time to pay for
		if c.pay(now); c.held {
			t.Fatalf("read %d of a burst is held up", n)
		}
	}
	for _, step := range []struct {
		name string
		got  int           // by the read before
		at   time.Duration // since the burst
		want bool
	}{
		{"after the burst", 1, 0, true},
		{"at once after much", gatherWorth, 0, true},
		{"when the time is paid for", gatherWorth, 3 * slow, false},
		{"at once after that", gatherWorth, 3 * slow, true},
		{"at once after little", gatherWorth - 1, 3 * slow, false},
	} {
		c.got = step.got
		if c.pay(now.Add(step.at)); c.held != step.want {
			t.Errorf("%s: held up = %t, want %t", step.name, c.held, step.want)
		}
	}
}

// A wait that brought little is not repeated: the peer may wait for the answer to each of its messages.
func TestGather_NotWorth(t *testing.T) {
	const gather = 10 * time.Millisecond
	c, peer := pair(t, gather)
	const n = 10 * gatherBurst
	if held := exchange(t, c, peer, 1, n); held > n/gatherBurst {
		t.Errorf("%d reads of %d small answers were held up, want one in %d", held, n, gatherBurst)
	}
}

// Much that has come ends a wait, and so does the end.
func TestGather_WaitEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(c *pacedConn, peer *net.TCPConn) error
		want error
	}{
		{"much", func(_ *pacedConn, peer *net.TCPConn) error {
			_, err := peer.Write(make([]byte, gatherBytes))
			return err
		}, nil},
		{"end", func(_ *pacedConn, peer *net.TCPConn) error { return peer.CloseWrite() }, io.EOF},
		{"reset", func(_ *pacedConn, peer *net.TCPConn) error { return errors.Join(peer.SetLinger(0), peer.Close()) }, syscall.ECONNRESET},
		{"close", func(c *pacedConn, _ *net.TCPConn) error { return c.Close() }, net.ErrClosed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, peer := exhausted(t)
			ended := make(chan error, 1)
			go func() {
				_, err := c.Read(make([]byte, gatherBytes))
				ended <- err
			}()
			const limit = 10 * time.Second
			for begin := time.Now(); !c.holding.Load(); runtime.Gosched() {
				if time.Since(begin) > limit {
					t.Fatal("no read is held up")
				}
			}
			if err := tt.end(c, peer); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if !errors.Is(err, tt.want) {
					t.Errorf("Read = %v, want %v", err, tt.want)
				}
			case <-time.After(limit):
				t.Fatal("Read goes on")
			}
			if c.holding.Load() {
				t.Error("the wait goes on")
			}
		})
	}
}

// Without a time nothing is held up.
func TestGather_Off(t *testing.T) {
	c, peer := pair(t, 0)
	if held := exchange(t, c, peer, gatherWorth, 4*gatherBurst); held != 0 {
		t.Errorf("%d reads were held up, want none", held)
	}
}

// Reads that fill their buffers are not held up, however many.
func TestGather_Bulk(t *testing.T) {
	const gather = 10 * time.Millisecond
	c, peer := pair(t, gather)
	exchange(t, c, peer, 1, gatherBurst) // the burst is used up
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() { // ends with its bytes, or with the connection
		_, _ = peer.Write(want)
		_ = peer.CloseWrite()
	}()
	var got bytes.Buffer
	start := time.Now()
	if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{c}, make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Fatal("the bytes differ")
	}
	if took, reads := time.Since(start), len(want)/512; took > time.Duration(reads)*gather/4 {
		t.Errorf("%d reads of a bulk took %v, want no pause for most", reads, took)
	}
}

// More than the kernel takes at once is written, and read, to its end.
func TestGather_Write(t *testing.T) {
	c, peer := pair(t, slow)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	var got bytes.Buffer
	read := make(chan error, 1)
	go func() {
		_, err := got.ReadFrom(peer)
		read <- err
	}()
	if n, err := c.Write(want); n != len(want) || err != nil {
		t.Fatalf("Write = %d, %v, want %d", n, err, len(want))
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes came, %v, want %d", got.Len(), err, len(want))
	}
}

// A connection tells why it can't be used any more.
func TestGather_Ends(t *testing.T) {
	b := make([]byte, 10)
	c, peer := pair(t, slow)
	if err := c.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read = %v after its deadline, want %v", err, os.ErrDeadlineExceeded)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	peer.CloseWrite()
	if n, err := c.Read(b); n != 0 || err != io.EOF { //nolint:errorlint // package tls compares so
		t.Errorf("Read = %d, %v at the end, want %v", n, err, io.EOF)
	}
	peer.SetLinger(0)
	peer.Close()
	for range 2 { // the first may be before the reset has come
		if _, err := c.Read(b); errors.Is(err, syscall.ECONNRESET) {
			break
		}
	}
	if _, err := c.Write(b); !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Write = %v after a reset, want %v", err, syscall.EPIPE)
	}
	c.Close()
	if _, err := c.Write(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write = %v after Close, want %v", err, net.ErrClosed)
	}
}

func lowat(t *testing.T, c *pacedConn) (bytes int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if controlErr := raw.Control(func(fd uintptr) {
		bytes, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT)
	}); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	return bytes
}
