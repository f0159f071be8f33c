package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"ztunnel/proxy/relay"
)

// Each test here holds a mistake that is easily made in an engine of this shape
// and shows only under load, if at all.

// A stream must take its send window in the critical section in which it enters
// the table, or a SETTINGS frame in between is missed and it stalls for ever.
func TestPitfallWindowAtRegistration(t *testing.T) {
	const rounds, streams, window = 20, 8, 200_000
	for range rounds {
		clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
			var all sync.WaitGroup
			for range streams {
				all.Go(func() {
					s, err := cc.Open(t.Context(), &Request{Authority: "a:1"})
					if err != nil {
						t.Errorf("Open() = %v", err)
						return
					}
					if _, err := s.Write(make([]byte, window)); err != nil {
						t.Errorf("Write() = %v", err)
					}
				})
			}
			p.must(p.fr.WriteWindowUpdate(0, streams*window))
			opened, got := 0, 0
			for got < streams*window {
				switch f := p.read().(type) {
				case *http2.HeadersFrame:
					if opened++; opened == 3 { // in the midst of it
						p.must(p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}))
					}
					p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: []byte{status200}, EndHeaders: true}))
				case *http2.DataFrame:
					got += len(f.Data())
				}
			}
			all.Wait()
		})
	}
}

// A control frame that found the write lock taken goes out when that is released,
// even if its holder was about to leave.
func TestPitfallControlFrameAfterUnlock(t *testing.T) {
	clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
		cc.c.lockWrite()
		if err := cc.c.finishWrite(true); err != nil { // the holder's last look
			t.Fatal(err)
		}
		p.must(p.fr.WritePing(false, [8]byte{1}))
		synctest.Wait() // the reader has tried and left
		cc.c.unlockWrite()
		if f := p.wantType(http2.FramePing).(*http2.PingFrame); !f.IsAck() {
			t.Errorf("got %v, want the answer to the PING", f)
		}
	})
}

// Two ends that both have to say something must not wait for each other: the
// reader never waits for the tunnel.
func TestPitfallReadersDoNotDeadlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		a.out.limit, a.in.limit = 20<<10, 20<<10
		cfg := &Config{StreamWindow: 64 << 10, ConnectionWindow: 256 << 10} // many window updates
		cc, _ := pair(t, a, b, cfg, echo)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				s, err := cc.Open(t.Context(), &Request{Authority: "a:1"})
				if err != nil {
					t.Errorf("Open() = %v", err)
					return
				}
				checkEcho(t, s, 4<<20)
			})
		}
		all.Wait()
	})
}

// A peer that does not read our end of the tunnel still gets read.
func TestPitfallReaderReadsOnAFullTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		a.out.limit = 1
		cc, p := scriptServer(t, a, b, nil)
		p.greetServer()
		s := p.accepted(cc)
		go s.Write(make([]byte, 60_000)) // fills the tunnel
		synctest.Wait()
		p.must(p.fr.WritePing(false, [8]byte{}))
		p.writeData(1, false, "hello")
		if _, err := io.ReadFull(s, make([]byte, 5)); err != nil {
			t.Errorf("Read() = %v, want the data", err)
		}
	})
}

// A FIN that arrives together with data must not be lost to the poller, whose
// next wait would be for an event that has been.
func TestPitfallEndTogetherWithData(t *testing.T) {
	a, b := tcpPair(t)
	cc, _ := pair(t, a, b, nil, relayTo(serveTCP(t, func(c *net.TCPConn) {
		io.Copy(io.Discard, c)
		c.Write([]byte("answer"))
	})))
	for range 200 {
		j := join(t, t.Context(), cc)
		j.app.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(j.app, "question")
		j.app.CloseWrite()
		if got, err := io.ReadAll(j.app); string(got) != "answer" || err != nil {
			t.Fatalf("read %q, %v, want the answer", got, err)
		}
		if err := <-j.result; err != nil {
			t.Fatalf("Relay() = %v", err)
		}
	}
}

// eachRecordLayer runs a test over records of our own and over those of crypto/tls.
func eachRecordLayer(t *testing.T, test func(t *testing.T, cfg *Config)) {
	t.Run("own", func(t *testing.T) { test(t, &Config{}) })
	t.Run("crypto-tls", func(t *testing.T) { test(t, &Config{CryptoTLS: true}) })
}

// rawPair is a record transport and the TLS connection at its other end.
func rawPair(t *testing.T, cfg *Config) (*records, *tls.Conn, *memConn) {
	t.Helper()
	a, b := memPair()
	peer := tls.Client(a, clientTLS())
	shaken := make(chan error, 1)
	go func() { shaken <- peer.Handshake() }()
	rec, _, err := handshake(t.Context(), b, cfg.withDefaults(false), serverTLS(), false)
	if err != nil {
		t.Fatal(err)
	}
	if own := rec.session != nil; own == cfg.CryptoTLS {
		t.Fatalf("records of our own: %t, want %t", own, !cfg.CryptoTLS)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	return rec, peer, b
}

// Plaintext that crypto/tls holds because the buffer was full is read without
// waiting for the socket.
func TestPitfallBufferedPlaintext(t *testing.T) { eachRecordLayer(t, bufferedPlaintext) }

func bufferedPlaintext(t *testing.T, cfg *Config) {
	rec, peer, _ := rawPair(t, cfg)
	want := bytes.Repeat([]byte("abcdefgh"), 1250)
	peer.Write(want)
	var got []byte
	small := make([]byte, 999)
	for len(got) < len(want) {
		if err := rec.wait(); err != nil { // would block for ever
			t.Fatal(err)
		}
		n, err := rec.read(small)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, small[:n]...)
	}
	if !bytes.Equal(got, want) {
		t.Error("the bytes differ")
	}
}

// crypto/tls must get no byte of the next record, or nobody knows that it is
// there; with that all complete records are decrypted at once.
func TestPitfallRecordBorders(t *testing.T) { eachRecordLayer(t, recordBorders) }

func recordBorders(t *testing.T, cfg *Config) {
	rec, peer, below := rawPair(t, cfg)
	for range 10 {
		peer.Write(make([]byte, 1000))
	}
	below.in.mu.Lock()
	cut := below.in.data[len(below.in.data)-7:]
	below.in.data = below.in.data[:len(below.in.data)-7] // a last record in part
	below.in.mu.Unlock()
	if err := rec.wait(); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 64<<10)
	if n, err := rec.read(p); n != 9000 || err != nil {
		t.Errorf("read() = %d, %v, want the nine complete records", n, err)
	}
	below.in.mu.Lock()
	below.in.data = append(below.in.data, cut...)
	below.in.mu.Unlock()
	if err := rec.wait(); err != nil {
		t.Fatal(err)
	}
	if n, err := rec.read(p); n != 1000 || err != nil {
		t.Errorf("read() = %d, %v, want the last record", n, err)
	}
}

// Nothing overtakes what is queued for a full application, and END_STREAM waits
// for the queue.
func TestPitfallQueueBeforeEnd(t *testing.T) {
	eachDirection(t, func(r *relayed, _ Direction) {
		r.app.SetReadBuffer(64 << 10)
		var want []byte
		for i := range 255 {
			piece := strings.Repeat(string(rune('a'+i%26)), 16<<10)
			want = append(want, piece...)
			r.p.writeData(1, false, piece)
		}
		r.p.writeData(1, true, "end")
		r.p.wantAlive() // all of it has been handled
		got, err := io.ReadAll(r.app)
		if err != nil || !bytes.Equal(got, append(want, "end"...)) {
			t.Errorf("the application read %d bytes, %v, want %d in order", len(got), err, len(want)+3)
		}
		r.app.Close()
		r.wantResult("")
	})
}

// The direct write is not taken while a drain runs, so the reader never waits
// behind it: other streams go on beside one that is full.
func TestPitfallFullApplicationStopsNobody(t *testing.T) {
	stuck := serveTCP(t, func(c *net.TCPConn) { c.SetReadBuffer(4 << 10); <-t.Context().Done() })
	echoes := echoTCP(t)
	a, b := tcpPair(t)
	cc, _ := pair(t, a, b, nil, func(ctx context.Context, s *Stream) {
		if s.Request().Authority == "stuck" {
			relayTo(stuck)(ctx, s)
		} else {
			relayTo(echoes)(ctx, s)
		}
	})
	var js []*joined
	for range 6 { // more than the tunnel's window in streams' windows
		j := joinAs(t, t.Context(), cc, "stuck")
		j.app.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		go j.app.Write(make([]byte, 64<<20))
		js = append(js, j)
	}
	other := joinAs(t, t.Context(), cc, "echo")
	other.app.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 1000)
	for range 500 {
		other.app.Write(buf)
		if _, err := io.ReadFull(other.app, buf); err != nil {
			t.Fatalf("beside stuck streams: %v", err)
		}
	}
	cc.Abort(nil)
	for _, j := range append(js, other) {
		j.app.SetLinger(0)
		j.app.Close()
		<-j.result
	}
}

// A peak of large buffers is not kept.
func TestPitfallPeakOfBuffers(t *testing.T) {
	for _, class := range []int{classBig, classHuge} {
		var all []*buffer
		for range 4 * keepLarge[class] {
			all = append(all, takeBuffer(class))
		}
		for _, b := range all {
			b.release()
		}
		if n := len(pools.large[class].free); n > keepLarge[class] {
			t.Errorf("%d buffers of %d bytes are kept, want at most %d", n, classSize[class], keepLarge[class])
		}
	}
}

// An idle stream and an idle tunnel hold no buffer, whatever they did before.
func TestPitfallIdleHoldsNoBuffer(t *testing.T) {
	a, b := tcpPair(t)
	cc, sc := pair(t, a, b, nil, relayTo(echoTCP(t)))
	j := join(t, t.Context(), cc)
	data := make([]byte, 4<<20)
	go j.app.Write(data)
	if _, err := io.CopyN(io.Discard, j.app, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*conn{cc.c, sc.c} {
		deadline := time.Now().Add(5 * time.Second)
		for !c.holdsNothing() {
			if time.Now().After(deadline) {
				t.Fatal("an idle tunnel holds a buffer to write from")
			}
		}
	}
	j.app.Close()
	<-j.result
}

// holdsNothing reports whether nothing is buffered for writing and no stream has
// a queue.
func (c *conn) holdsNothing() bool {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if c.rec.buffered() > 0 || c.rec.out != nil || c.rec.sending != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		s.mu.Lock()
		queued := !s.q.empty()
		s.mu.Unlock()
		if queued {
			return false
		}
	}
	return true
}

// The system calls that do not tell the scheduler must never wait.
func TestPitfallSocketsDoNotBlock(t *testing.T) {
	a, b := tcpPair(t)
	for _, c := range []*net.TCPConn{a, b} {
		io, err := newTCPIO(c)
		if err != nil {
			t.Fatal(err)
		}
		io.rc.Control(func(fd uintptr) {
			flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
			if err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("flags %#x, %v, want a socket that does not block", flags, err)
			}
			if _, err := relay.RawRead(fd, make([]byte, 1)); err != syscall.EAGAIN {
				t.Errorf("RawRead() = %v, want EAGAIN", err)
			}
			if lowat, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); err != nil || lowat != notSentLowat {
				t.Errorf("TCP_NOTSENT_LOWAT = %d, %v, want %d", lowat, err, notSentLowat)
			}
		})
	}
}

// A flush that was left to another writer happens although that one finds
// nothing to write.
func TestPitfallSkippedFlush(t *testing.T) {
	for name, leave := range map[string]func(s *Stream){
		"no window":     func(s *Stream) { s.sendWin = 0; (&relayState{s: s, class: classWarm}).hot() },
		"stream gone":   func(s *Stream) { s.loseLocked(&streamEnd{}); (&relayState{s: s, class: classWarm}).hot() },
		"no window/buf": func(s *Stream) { s.sendWin = 0; s.sendData(make([]byte, 20), false) },
		"Accept":        func(s *Stream) { s.loseLocked(&streamEnd{}); s.Accept(nil) },
		"Reject":        func(s *Stream) { s.loseLocked(&streamEnd{}); s.Reject(503) },
		"half-close":    func(s *Stream) { s.loseLocked(&streamEnd{}); s.sendEnd() },
	} {
		t.Run(name, func(t *testing.T) {
			clientTest(t, &Config{PingInterval: -1}, func(t *testing.T, cc *ClientConn, p *script) {
				s, other := p.accepted(cc), p.accepted(cc)
				cc.c.waiters.Add(1) // the other writer is coming
				if n, err := s.sendData(append(make([]byte, frameHeader), "hello"...), false); n != 5 || err != nil {
					t.Fatalf("sendData() = %d, %v", n, err)
				}
				if n := cc.c.rec.buffered(); n == 0 {
					t.Fatal("the first writer flushed, want it to leave that to the second")
				}
				cc.c.waiters.Add(-1)
				leave(other)
				if got := p.wantData(1, 5); string(got) != "hello" {
					t.Errorf("got %q, want hello", got)
				}
			})
		})
	}
}

// A read buffer grows although the beginning of a record is left in it all the
// time, as it is under load.
func TestPitfallReadBufferGrows(t *testing.T) { eachRecordLayer(t, readBufferGrows) }

func readBufferGrows(t *testing.T, cfg *Config) {
	rec, peer, below := rawPair(t, cfg)
	peer.Write(make([]byte, 1<<20))
	below.in.mu.Lock()
	below.in.data = below.in.data[:len(below.in.data)-7]
	below.in.mu.Unlock()
	p := make([]byte, 256<<10)
	for n := 0; n < 1<<20-maxPlaintext; {
		if err := rec.wait(); err != nil {
			t.Fatal(err)
		}
		m, err := rec.read(p)
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if rec.in.buf == nil || rec.in.buf.class == classWarm {
		t.Error("the buffer has not grown in reading 1 MiB")
	}
}
