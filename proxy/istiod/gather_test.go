package istiod

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// pair is a gathering connection and its peer.
func pair(t *testing.T) (*gatheringConn, *net.TCPConn) {
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
	c, err := gather(conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	return c, peer
}

// exchange has the peer send one byte and reads it, n times.
func exchange(t *testing.T, c *gatheringConn, peer *net.TCPConn, n int) time.Duration {
	t.Helper()
	start := time.Now()
	buf := make([]byte, 100)
	for range n {
		if _, err := peer.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Read(buf); err != nil || got != 1 {
			t.Fatalf("Read = %d, %v, want 1 byte", got, err)
		}
	}
	return time.Since(start)
}

// A burst is not held up; after it, reads come one in gatherTime.
func TestGather_Pace(t *testing.T) {
	c, peer := pair(t)
	burst := exchange(t, c, peer, gatherBurst)
	const paced = 10
	took := exchange(t, c, peer, paced)
	if least := (paced-2)*gatherTime - burst; took < least {
		t.Errorf("%d reads after a burst took %v, want at least %v", paced, took, least)
	}
	if got := lowat(t, c); got != 1 {
		t.Errorf("SO_RCVLOWAT = %d outside of a wait, want 1", got)
	}
}

// Reads that fill their buffers are not held up, however many.
func TestGather_Bulk(t *testing.T) {
	c, peer := pair(t)
	exchange(t, c, peer, gatherBurst) // the burst is used up
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
	if took, reads := time.Since(start), len(want)/512; took > time.Duration(reads)*gatherTime/4 {
		t.Errorf("%d reads of a bulk took %v, want no pause for most", reads, took)
	}
}

// More than the kernel takes at once is written, and read, to its end.
func TestGather_Write(t *testing.T) {
	c, peer := pair(t)
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
	c, peer := pair(t)
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

// Close ends a wait.
func TestGather_Close(t *testing.T) {
	c, peer := pair(t)
	exchange(t, c, peer, gatherBurst)
	c.paid = time.Now().Add(time.Hour) // a wait that nobody would sit out
	ended := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		ended <- err
	}()
	c.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read = %v, want %v", err, net.ErrClosed)
		}
	case <-time.After(10 * time.Second):
		t.Error("Read goes on after Close")
	}
}

func lowat(t *testing.T, c *gatheringConn) (bytes int) {
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
