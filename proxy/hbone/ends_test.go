package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// relayed is a stream of a scripted peer joined with an application.
type relayed struct {
	t      *testing.T
	p      *script
	app    *net.TCPConn
	n      counts
	result chan error
	cancel context.CancelCauseFunc
}

// relayTest runs our end of one relayed stream, number 1, over real sockets
// against a script, as an outbound proxy (Downstream) or an inbound one.
func relayTest(t *testing.T, dir Direction, run func(r *relayed)) {
	t.Helper()
	a, b := tcpPair(t)
	near, far := tcpPair(t)
	near.SetDeadline(time.Now().Add(20 * time.Second))
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	r := &relayed{t: t, app: near, result: make(chan error, 1), cancel: cancel}
	if dir == Downstream {
		var cc *ClientConn
		cc, r.p = scriptServer(t, a, b, nil)
		r.p.greetServer()
		s := r.p.accepted(cc)
		go func() { r.result <- s.Relay(ctx, far, &r.n.to, &r.n.from, dir) }()
	} else {
		_, r.p, _ = scriptClient(t, a, b, nil, func(_ context.Context, s *Stream) {
			s.Accept(nil)
			r.result <- s.Relay(ctx, far, &r.n.to, &r.n.from, dir)
		})
		r.p.greetClient()
		r.p.writeConnect(1)
		r.p.wantStatus(1, "200")
	}
	run(r)
}

func eachDirection(t *testing.T, run func(r *relayed, dir Direction)) {
	t.Run("outbound", func(t *testing.T) { relayTest(t, Downstream, func(r *relayed) { run(r, Downstream) }) })
	t.Run("inbound", func(t *testing.T) { relayTest(t, Upstream, func(r *relayed) { run(r, Upstream) }) })
}

// wantApp expects text from the application's socket, then its end.
func (r *relayed) wantApp(text string) {
	r.t.Helper()
	if got, err := io.ReadAll(r.app); err != nil || string(got) != text {
		r.t.Fatalf("the application read %q, %v, want %q and the end", got, err, text)
	}
}

func (r *relayed) wantResult(text string) {
	r.t.Helper()
	select {
	case err := <-r.result:
		if errorText(err) != text {
			r.t.Errorf("Relay() = %v, want %q", err, text)
		}
	case <-time.After(10 * time.Second):
		r.t.Fatal("Relay() did not return")
	}
}

func (r *relayed) say(text string) {
	r.t.Helper()
	if _, err := io.WriteString(r.app, text); err != nil {
		r.t.Fatal(err)
	}
}

func TestRelayHalfClose(t *testing.T) {
	t.Run("application first", func(t *testing.T) {
		eachDirection(t, func(r *relayed, _ Direction) {
			r.say("question")
			r.app.CloseWrite()
			r.p.wantData(1, 8)
			r.p.wantEndOr(1)
			r.p.writeData(1, false, "a late ")
			r.p.writeData(1, true, "answer")
			r.wantApp("a late answer")
			r.wantResult("")
			if r.n.to.Load() != 8 || r.n.from.Load() != 13 {
				r.t.Errorf("counted %d and %d, want 8 and 13", r.n.to.Load(), r.n.from.Load())
			}
			r.p.wantAlive()
		})
	})
	t.Run("peer first", func(t *testing.T) {
		eachDirection(t, func(r *relayed, _ Direction) {
			r.p.writeData(1, true, "greeting")
			r.wantApp("greeting")
			r.say("thanks")
			r.p.wantData(1, 6)
			r.app.Close()
			r.p.wantEnd(1)
			r.wantResult("")
			r.p.wantAlive()
		})
	})
}

// wantEndOr accepts END_STREAM on an empty frame or nothing, if the last DATA
// had it, which only a later PING shows.
func (p *script) wantEndOr(id uint32) {
	p.t.Helper()
	if !p.ended {
		p.wantEnd(id)
	}
}

// How an accepted stream ends and what the log says of it, when the application
// closes afterwards.
func TestRelayEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(p *script)
		want string // after "while closing connection: send: "
	}{
		{"END_STREAM", func(p *script) { p.writeData(1, true, "") }, ""},
		{"NO_ERROR", func(p *script) { p.fr.WriteRSTStream(1, http2.ErrCodeNo) }, ""},
		{"CANCEL", func(p *script) { p.fr.WriteRSTStream(1, http2.ErrCodeCancel) }, "io error: broken pipe"},
		{"STREAM_CLOSED", func(p *script) { p.fr.WriteRSTStream(1, http2.ErrCodeStreamClosed) }, "io error: broken pipe"},
		{
			"INTERNAL_ERROR", func(p *script) { p.fr.WriteRSTStream(1, http2.ErrCodeInternal) },
			"io error: protocol error: unexpected internal error encountered",
		},
		{"connection closed", func(p *script) { p.conn.Close() }, "io error: stream closed because of a broken pipe"},
		{"connection reset", func(p *script) {
			p.wantAlive() // so that nothing is unread
			p.tcp().SetLinger(0)
			p.tcp().Close()
		}, "io error: connection reset"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachDirection(t, func(r *relayed, dir Direction) {
				r.p.writeData(1, false, "last words")
				tt.end(r.p)
				r.wantApp("last words")
				r.app.Close()
				way := "send: "
				if dir == Upstream {
					way = "receive: "
				}
				want := tt.want
				if tt.name == "INTERNAL_ERROR" && dir == Upstream {
					want = "send: io error: stream error received: unexpected internal error encountered" // that way is reported first
				} else if want != "" {
					want = "while closing connection: " + way + want
				}
				r.wantResult(want)
				if got := r.n.from.Load(); got != 10 {
					r.t.Errorf("counted %d bytes from the tunnel, want 10", got)
				}
			})
		})
	}
}

// An application that writes on although the peer has reset the stream.
func TestRelayWritesTooLate(t *testing.T) {
	for _, tt := range []struct {
		code              http2.ErrCode
		outbound, inbound string
	}{
		{http2.ErrCodeNo, "send: destination disconnected before all data was written", "receive: client disconnected before all data was written"},
		{http2.ErrCodeCancel, "while closing connection: send: io error: broken pipe", "while closing connection: receive: io error: broken pipe"},
	} {
		t.Run(tt.code.String(), func(t *testing.T) {
			eachDirection(t, func(r *relayed, dir Direction) {
				r.p.must(r.p.fr.WriteRSTStream(1, tt.code))
				r.wantApp("")
				r.say("too late")
				want := tt.outbound
				if dir == Upstream {
					want = tt.inbound
				}
				r.wantResult(want)
				if got := r.n.to.Load(); got != 0 {
					r.t.Errorf("counted %d bytes to the tunnel, want 0", got)
				}
			})
		})
	}
}

// An application that resets its socket looks like one that closes it; when its
// peer goes on sending, the stream is reset.
func TestRelayApplicationResets(t *testing.T) {
	eachDirection(t, func(r *relayed, dir Direction) {
		r.say("last words")
		r.p.wantData(1, 10)
		r.app.SetLinger(0)
		r.app.Close()
		r.p.wantEnd(1)
		r.p.writeData(1, false, "for nobody")
		code := http2.ErrCodeCancel
		if dir == Upstream {
			code = http2.ErrCodeNo
		}
		r.p.wantReset(1, code)
		r.wantResult("")
	})
}

func TestRelayCancelled(t *testing.T) {
	cause := errors.New("connection closed due to policy change")
	for _, state := range []string{"idle", "application full", "tunnel window used up"} {
		t.Run(state, func(t *testing.T) {
			eachDirection(t, func(r *relayed, dir Direction) {
				switch state {
				case "application full":
					for range 250 {
						r.p.writeData(1, false, strings.Repeat("x", 16<<10))
					}
					r.p.wantAlive()
				case "tunnel window used up":
					r.say(strings.Repeat("x", 65535))
					r.p.wantData(1, 65535)
					r.say("more")
				}
				r.cancel(cause)
				r.wantResult(cause.Error())
				r.p.wantReset(1, http2.ErrCodeCancel)
				r.p.wantAlive()
				if state != "application full" {
					if _, err := io.Copy(io.Discard, r.app); err != nil && !strings.Contains(err.Error(), "reset") {
						t.Errorf("the application's socket: %v, want it closed", err)
					}
				}
			})
		})
	}
}

// A reset that comes before the relay begins is seen like any other.
func TestRelayOfAStreamThatHasEnded(t *testing.T) {
	for _, tt := range []struct {
		code http2.ErrCode
		want string
	}{
		{http2.ErrCodeNo, ""},
		{http2.ErrCodeCancel, "while closing connection: send: io error: broken pipe"},
	} {
		t.Run(tt.code.String(), func(t *testing.T) {
			a, b := tcpPair(t)
			near, far := tcpPair(t)
			cc, p := scriptServer(t, a, b, nil)
			p.greetServer()
			s := p.accepted(cc)
			p.writeData(1, false, "last words")
			p.must(p.fr.WriteRSTStream(1, tt.code))
			p.wantAlive()
			var n counts
			result := make(chan error, 1)
			go func() { result <- s.Relay(t.Context(), far, &n.to, &n.from, Downstream) }()
			if got, err := io.ReadAll(near); err != nil || string(got) != "last words" {
				t.Errorf("the application read %q, %v, want the last words", got, err)
			}
			near.Close()
			if err := <-result; errorText(err) != tt.want {
				t.Errorf("Relay() = %v, want %q", err, tt.want)
			}
		})
	}
}
