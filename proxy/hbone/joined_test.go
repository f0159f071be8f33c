package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

var errCancelled = errors.New("cancelled")

// within returns what comes from a channel, and fails the test if nothing does.
func within[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not happen", what)
	}
	panic("unreachable")
}

// runOn runs a relay to its end.
func runOn(r Relaying) error {
	for {
		again, err := r.Run()
		if !again {
			return err
		}
	}
}

// A relay that was joined runs on after its handler has returned, and holds
// nothing of the request. Serve waits for it.
func TestJoinOutlivesHandler(t *testing.T) {
	a, b := tcpPair(t)
	app := echoTCP(t)
	type half struct {
		s *Stream
		r Relaying
		n *counts
	}
	handlers := make(chan half, 1)
	sc, p, served := scriptClient(t, a, b, nil, func(_ context.Context, s *Stream) {
		if s.Request() == nil || s.Request().Authority != "10.0.0.1:80" {
			t.Errorf("Request() = %+v, want that of the client", s.Request())
		}
		if err := s.Accept(nil); err != nil {
			t.Errorf("Accept() = %v", err)
		}
		n := &counts{}
		handlers <- half{s, s.Join(app(), &n.to, &n.from, Upstream), n}
	})
	p.greetClient()
	p.writeConnect(1)
	p.wantStatus(1, "200")
	h := within(t, "the end of the handler", handlers)
	if h.s.Request() != nil {
		t.Error("the request is held after Join")
	}
	p.writeData(1, false, "early") // while nobody runs the relay
	p.wantAlive()                  // and the stream was not reset
	sc.Drain()
	p.wantGoAway(maxStreamID, http2.ErrCodeNo)
	ping := p.wantType(http2.FramePing).(*http2.PingFrame)
	p.must(p.fr.WritePing(true, ping.Data))
	p.wantGoAway(1, http2.ErrCodeNo)
	result := make(chan error, 1)
	go func() { result <- runOn(h.r) }()
	if got := string(p.wantData(1, 5)); got != "early" {
		t.Errorf("echoed %q, want early", got)
	}
	select {
	case err := <-served:
		t.Fatalf("Serve() = %v before the relay has ended", err)
	default:
	}
	p.writeData(1, true, "")
	p.wantEnd(1)
	if err := within(t, "the end of the relay", result); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	p.wantGoAway(1, http2.ErrCodeNo)
	p.conn.Close()
	if err := within(t, "the end of Serve", served); err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
	if to, from := h.n.to.Load(), h.n.from.Load(); to != 5 || from != 5 {
		t.Errorf("counted %d to and %d from the tunnel, want 5 and 5", to, from)
	}
}

// Serve does not return before a joined relay whose tunnel is gone.
func TestServeWaitsForJoined(t *testing.T) {
	a, b := tcpPair(t)
	near, far := tcpPair(t)
	joins := make(chan Relaying, 1)
	var n counts
	sc, p, served := scriptClient(t, a, b, nil, func(_ context.Context, s *Stream) {
		_ = s.Accept(nil)
		joins <- s.Join(far, &n.to, &n.from, Upstream)
	})
	p.greetClient()
	p.writeConnect(1)
	p.wantStatus(1, "200")
	r := within(t, "the end of the handler", joins)
	sc.Abort(errCancelled)
	within(t, "the end of the tunnel", sc.c.done)
	select {
	case err := <-served:
		t.Fatalf("Serve() = %v before the relay has run", err)
	case <-time.After(10 * time.Millisecond):
	}
	near.Close()
	_ = runOn(r)
	within(t, "the end of Serve", served)
}

// cancelTest opens a stream to a scripted server and joins it with a socket.
func cancelTest(t *testing.T) (p *script, s *Stream, near *net.TCPConn, r Relaying) {
	t.Helper()
	a, b := tcpPair(t)
	cc, p := scriptServer(t, a, b, nil)
	p.greetServer()
	s = p.accepted(cc)
	near, far := tcpPair(t)
	n := &counts{}
	return p, s, near, s.Join(far, &n.to, &n.from, Downstream)
}

// wantGone expects that the other end of an application's socket was closed.
func wantGone(t *testing.T, near *net.TCPConn) {
	t.Helper()
	_ = near.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := near.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("Read() of the application = %d, %v, want the end", n, err)
	}
}

func TestCancelBeforeRun(t *testing.T) {
	p, s, near, r := cancelTest(t)
	s.Cancel(errCancelled)
	p.wantReset(1, http2.ErrCodeCancel)
	if err := runOn(r); !errors.Is(err, errCancelled) {
		t.Errorf("Run() = %v, want the cause of Cancel", err)
	}
	wantGone(t, near)
}

func TestCancelWhileRelaying(t *testing.T) {
	p, s, near, r := cancelTest(t)
	result := make(chan error, 1)
	go func() { result <- runOn(r) }()
	_, err := near.Write([]byte("hello"))
	p.must(err)
	p.wantData(1, 5)
	s.Cancel(errCancelled)
	s.Cancel(errors.New("again"))
	p.wantReset(1, http2.ErrCodeCancel)
	if err := within(t, "the end of the relay", result); !errors.Is(err, errCancelled) {
		t.Errorf("Run() = %v, want the cause of the first Cancel", err)
	}
	wantGone(t, near)
}

// Cancel from elsewhere at any moment of the beginning ends the relay.
func TestCancelWhileAttaching(t *testing.T) {
	a, b := tcpPair(t)
	cc, _ := pair(t, a, b, nil, relayTo(echoTCP(t)))
	for range 200 {
		s, err := cc.Open(t.Context(), &Request{Authority: "10.0.0.1:80"})
		if err != nil {
			t.Fatal(err)
		}
		near, far := tcpPair(t)
		var n counts
		r := s.Join(far, &n.to, &n.from, Downstream)
		result := make(chan error, 1)
		go func() { result <- runOn(r) }()
		s.Cancel(errCancelled)
		if err := within(t, "the end of the relay", result); !errors.Is(err, errCancelled) {
			t.Fatalf("Run() = %v, want the cause of Cancel", err)
		}
		near.Close()
	}
}

// A Cancel that comes too late changes nothing.
func TestCancelAfterEnd(t *testing.T) {
	p, s, near, r := cancelTest(t)
	near.CloseWrite()
	p.writeData(1, true, "bye")
	if err := runOn(r); err != nil {
		t.Fatalf("Run() = %v, want nil", err)
	}
	p.wantEnd(1)
	s.Cancel(errCancelled)
	p.wantAlive() // not a reset
	if got, err := io.ReadAll(near); string(got) != "bye" || err != nil {
		t.Errorf("the application got %q, %v, want bye and the end", got, err)
	}
}

// A relay whose application has ended first ends its socket by closing it. The
// application sees the rest of the bytes and an orderly end, no reset.
func TestEndWithoutShutdown(t *testing.T) {
	const size = 300 << 10
	p, _, near, r := cancelTest(t)
	result := make(chan error, 1)
	go func() { result <- runOn(r) }()
	_, err := near.Write([]byte("hello"))
	p.must(err)
	p.must(near.CloseWrite())
	p.wantData(1, 5)
	if !p.ended {
		p.wantEnd(1)
	}
	for range size / (10 << 10) {
		p.writeData(1, false, string(make([]byte, 10<<10)))
	}
	for !r.r.upEnded.Load() { // the peer was told before Run says so
		runtime.Gosched()
	}
	p.writeData(1, true, "")
	got, err := io.ReadAll(near)
	if len(got) != size || err != nil {
		t.Errorf("the application got %d bytes, %v, want %d and the end", len(got), err, size)
	}
	if err := within(t, "the end of the relay", result); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if r.r.downCloseErr != nil {
		t.Errorf("half-close = %v, want nil", r.r.downCloseErr)
	}
}

// So are the window updates that answer small messages of an application.
func TestWindowUpdatesForSmallMessages(t *testing.T) {
	p, s, near, r := cancelTest(t)
	result := make(chan error, 1)
	go func() { result <- runOn(r) }()
	for range 400 {
		_, err := near.Write([]byte("a"))
		p.must(err)
		p.wantData(1, 1)
		p.must(p.fr.WriteWindowUpdate(1, 1))
	}
	p.wantAlive()
	near.Close()
	p.writeData(1, true, "")
	if err := within(t, "the end of the relay", result); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if n := s.c.cfg.Metrics.ControlFloods.Load(); n != 0 {
		t.Errorf("%d floods, want none", n)
	}
}

// Many window updates are a flood unless they answer what we send.
func TestWindowUpdatesThatTrafficExplains(t *testing.T) {
	const updates = 5000 // with 256 KiB for each, more than 1 GiB
	for _, explained := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			a, b := memPair()
			cc, p := scriptServer(t, a, b, &Config{PingInterval: -1})
			p.greetServer(http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow - 1<<20})
			p.must(p.fr.WriteWindowUpdate(0, maxWindow-initialWindow-1<<20))
			s := p.accepted(cc)
			begun := time.Now()
			data := make([]byte, frameHeader+64<<10)
			sent := 0
			for range updates {
				if explained { // what a bulk transfer has between two updates
					for range 4 {
						n, err := s.sendData(data, false)
						if err != nil {
							t.Fatalf("sendData() = %v after %d bytes", err, sent)
						}
						p.wantData(s.ID(), n)
						sent += n
					}
				}
				if p.fr.WriteWindowUpdate(s.ID(), 1) != nil || p.fr.WriteWindowUpdate(0, 1) != nil {
					break // the tunnel was closed
				}
				if explained {
					synctest.Wait()
				}
			}
			if d := time.Since(begun); d >= 10*time.Second {
				t.Fatalf("took %v, want it within one period", d)
			}
			if explained {
				p.wantAlive()
				if n := cc.c.cfg.Metrics.ControlFloods.Load(); n != 0 {
					t.Errorf("%d floods after %d bytes and %d updates, want none", n, sent, 2*updates)
				}
				return
			}
			if code, err := p.goAway(); err != nil || code != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("GOAWAY = %v, %v, want ENHANCE_YOUR_CALM", code, err)
			}
		})
	}
}
