package hbone

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
)

// What a peer sent before it could know that its stream has ended is ignored,
// with no second answer.
func TestFramesUnderWay(t *testing.T) {
	reject := func(_ context.Context, s *Stream) { s.Reject(503) }
	for _, tt := range []struct {
		name string
		end  func(p *script) // makes us reset stream 1
	}{
		{"rejected", func(p *script) {
			p.writeConnect(1)
			p.wantStatus(1, "503")
			p.wantReset(1, http2.ErrCodeNo)
		}},
		{"malformed", func(p *script) {
			p.writeHeaders(1, false, ":method", "CONNECT", ":path", "/", ":authority", "a:1")
			p.wantReset(1, http2.ErrCodeProtocol)
		}},
		{"depends on itself", func(p *script) {
			p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{
				StreamID: 1, EndHeaders: true, Priority: http2.PriorityParam{StreamDep: 1},
				BlockFragment: p.block(":method", "CONNECT", ":authority", "a:1"),
			}))
			p.wantReset(1, http2.ErrCodeProtocol)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			serverTest(t, nil, reject, func(t *testing.T, sc *ServerConn, p *script, _ <-chan error) {
				tt.end(p)
				p.writeData(1, false, "x")
				p.must(p.fr.WriteWindowUpdate(1, 1))
				p.writeHeaders(1, true, "a", "b")
				p.wantAlive()
				p.writeData(1, false, "x") // but not after its own END_STREAM
				p.wantReset(1, http2.ErrCodeStreamClosed)
				p.writeData(1, false, "x")
				p.wantAlive()
			})
		})
	}
}

// DATA on a stream that the client itself has ended is answered once.
func TestDataOnClosedStream(t *testing.T) {
	serverTest(t, nil, echo, func(t *testing.T, sc *ServerConn, p *script, _ <-chan error) {
		p.writeConnect(3)
		p.wantStatus(3, "200")
		p.must(p.fr.WriteRSTStream(3, http2.ErrCodeCancel))
		for _, id := range []uint32{3, 1} { // 1 was passed over
			p.writeData(id, false, "x")
			p.wantReset(id, http2.ErrCodeStreamClosed)
			p.writeData(id, false, "x")
			p.wantAlive()
		}
	})
}

// The same at the client: what a server sent for a request that was given up is
// ignored, and a second response to a stream that has ended ends the tunnel.
func TestClientFramesUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		cc, p := scriptServer(t, a, b, nil)
		p.greetServer()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := cc.Open(ctx, &Request{Authority: "10.0.0.1:80"})
			done <- err
		}()
		id, _, _ := p.wantHeaders()
		cancel()
		<-done
		p.wantReset(id, http2.ErrCodeCancel)
		p.writeHeaders(id, false, ":status", "200")
		p.writeData(id, false, "late")
		p.wantAlive()
		p.must(p.fr.WriteRSTStream(id, http2.ErrCodeCancel))
		p.writeHeaders(id, false, ":status", "200")
		p.wantGoAway(0, http2.ErrCodeStreamClosed)
	})
}

// What is remembered of closed streams is bounded, and doubt favours the peer.
func TestClosedStreamsForget(t *testing.T) {
	var l closedStreams
	for id := uint32(1); id <= 3*maxLate; id += 2 {
		l.giveUp(id)
		l.giveUp(id)
	}
	if len(l.late) > maxLate || l.forgotten == 0 {
		t.Errorf("%d streams are remembered and those to %d forgotten, want at most %d", len(l.late), l.forgotten, maxLate)
	}
	for id := uint32(1); id <= 3*maxLate; id += 2 {
		if !l.mayCome(id) {
			t.Fatalf("a frame of stream %d is an error, want it ignored", id)
		}
	}
	last := l.late[len(l.late)-1]
	l.peerEnded(last)
	if l.mayCome(last) || l.mayCome(last+2) {
		t.Error("frames may come for streams that the peer has ended")
	}
	for id := uint32(1); id < 100; id += 4 {
		l.skip(id, id+4)
	}
	if len(l.skipped) != maxSkipped {
		t.Errorf("%d gaps are remembered, want %d", len(l.skipped), maxSkipped)
	}
}

// A peer must begin with SETTINGS.
func TestFirstFrame(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(p *script)
	}{
		{"HEADERS", func(p *script) { p.writeConnect(1) }},
		{"PING", func(p *script) { p.fr.WritePing(false, [8]byte{}) }},
		{"SETTINGS ack", func(p *script) { p.fr.WriteSettingsAck() }},
		{"unknown", func(p *script) { p.fr.WriteRawFrame(0x42, 0, 0, nil) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := memPair()
				_, p, _ := scriptClient(t, a, b, nil, echo)
				if _, err := p.conn.Write([]byte(http2.ClientPreface)); err != nil {
					t.Fatal(err)
				}
				tt.send(p)
				if code, err := p.goAway(); err != nil || code != http2.ErrCodeProtocol {
					t.Errorf("GOAWAY %v, %v, want PROTOCOL_ERROR", code, err)
				}
			})
		})
	}
}

// What a peer says in a GOAWAY cannot forge lines of the log.
func TestGoAwayTextIsEscaped(t *testing.T) {
	clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
		p.must(p.fr.WriteGoAway(0, http2.ErrCodeInternal, []byte("bye\n2026-01-01T00:00:00Z\tinfo\x1b[31m \"all is well\"")))
		p.conn.Close()
		<-cc.Done()
		text := errorText(cc.Err())
		if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("Err() = %q, want a text without control characters", text)
		}
	})
}
