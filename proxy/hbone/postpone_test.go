package hbone

import (
	"testing"

	"golang.org/x/net/http2"
)

// A flush is left to somebody who has promised one. Tries that nobody makes use
// of become rare, and those that somebody does go on.
func TestFinishSoon(t *testing.T) {
	a, b := tcpPair(t)
	cc, _ := pair(t, a, b, nil, echo)
	c := cc.c
	c.lockWrite()
	defer c.unlockWrite()
	p := &c.postponing
	write := func() (left bool) {
		t.Helper()
		if err := c.append(appendHeader(nil, 0, http2.FrameType(0xfa), 0, 0)); err != nil { // unknown to the peer
			t.Fatal(err)
		}
		if err := c.finishSoon(true); err != nil {
			t.Fatal(err)
		}
		return c.rec.buffered() > 0
	}
	for _, want := range []int{1, 3, 7} { // in vain
		if left := write(); left || p.skip != want {
			t.Fatalf("after a try in vain the frame is left: %t, and %d flushes are not put off, want %d", left, p.skip, want)
		}
		for p.skip > 0 {
			if write() {
				t.Fatal("a flush that is not to be put off has left the frame")
			}
		}
	}
	p.open, p.extra = true, 0 // as while another goroutine waits for others
	if !write() || p.extra != 1 {
		t.Errorf("the frame was flushed although somebody has promised that, or he was not told (%d)", p.extra)
	}
	p.open = false
	if err := c.finishWrite(true); err != nil || c.rec.buffered() > 0 {
		t.Errorf("finishWrite() = %v with %d bytes left, want all out", err, c.rec.buffered())
	}
}
