package hbone

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
)

// serverTest runs our server against a script in a bubble, greeted.
func serverTest(t *testing.T, cfg *Config, handle func(context.Context, *Stream), run func(t *testing.T, sc *ServerConn, p *script, served <-chan error), settings ...http2.Setting) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		sc, p, served := scriptClient(t, a, b, cfg, handle)
		p.greetClient(settings...)
		run(t, sc, p, served)
	})
}

// echo accepts a stream and sends back what comes.
func echo(_ context.Context, s *Stream) {
	if s.Accept(nil) == nil {
		io.Copy(s, s)
		s.CloseWrite()
		io.Copy(io.Discard, s)
	}
}

func TestServerOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		_, p, _ := scriptClient(t, a, b, &Config{StreamWindow: 1_000_000, ConnectionWindow: 3_000_000, MaxFrameSize: 20_000}, echo)
		got := map[http2.SettingID]uint32{}
		p.wantType(http2.FrameSettings).(*http2.SettingsFrame).ForeachSetting(func(s http2.Setting) error {
			got[s.ID] = s.Val
			return nil
		})
		want := map[http2.SettingID]uint32{
			http2.SettingMaxConcurrentStreams: 200, http2.SettingInitialWindowSize: 1_000_000,
			http2.SettingMaxFrameSize: 20_000, http2.SettingMaxHeaderListSize: 64 << 10,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("SETTINGS differ (-want +got):\n%s", diff)
		}
		f := p.wantType(http2.FrameWindowUpdate).(*http2.WindowUpdateFrame)
		if f.StreamID != 0 || f.Increment != 3_000_000-65535 {
			t.Errorf("WINDOW_UPDATE = %v, want 3,000,000 for the tunnel", f)
		}
	})
}

func TestServerEcho(t *testing.T) {
	serverTest(t, nil, echo, func(t *testing.T, sc *ServerConn, p *script, _ <-chan error) {
		p.writeConnect(1)
		p.wantStatus(1, "200")
		p.must(p.fr.WriteDataPadded(1, false, []byte("hello"), make([]byte, 200)))
		if got := p.wantData(1, 5); string(got) != "hello" {
			t.Errorf("echo = %q, want hello", got)
		}
		p.writeData(1, true, "")
		p.wantEnd(1)
		p.wantAlive()
	})
}

func TestServerRejects(t *testing.T) {
	reject := func(_ context.Context, s *Stream) { s.Reject(503) }
	serverTest(t, nil, reject, func(t *testing.T, sc *ServerConn, p *script, _ <-chan error) {
		p.writeConnect(1)
		if id, fields, end := p.wantHeaders(); id != 1 || len(fields) != 1 || fields[0].Value != "503" || !end {
			t.Errorf("response on %d: %v, end %t, want 503 and the end", id, fields, end)
		}
		p.wantReset(1, http2.ErrCodeNo)
		p.wantAlive()
		p.writeHeaders(3, true, ":method", "CONNECT", ":authority", "a:1")
		p.wantHeaders()
		p.wantAlive() // no reset of a stream that both have ended
	})
}

func TestServerRequests(t *testing.T) {
	get := func(more ...string) []string {
		return append([]string{":method", "GET", ":scheme", "https", ":authority", "a:1", ":path", "/"}, more...)
	}
	connect := func(more ...string) []string {
		return append([]string{":method", "CONNECT", ":authority", "a:1"}, more...)
	}
	const (
		served = "served"
		reset  = "reset"
	)
	for _, tt := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"CONNECT", connect("baggage", "a=b", "te", "trailers"), served},
		{"GET", get(), served}, // for the handler to reject
		{"no authority", []string{":method", "CONNECT"}, served},
		{"a scheme", connect()[:4:4], served},
		{"scheme", []string{":method", "CONNECT", ":scheme", "https", ":authority", "a:1"}, reset},
		{"path", []string{":method", "CONNECT", ":path", "/", ":authority", "a:1"}, reset},
		{"extended CONNECT", []string{":method", "CONNECT", ":protocol", "websocket", ":authority", "a:1"}, reset},
		{"empty authority", []string{":method", "CONNECT", ":authority", ""}, reset},
		{"authority with a blank", []string{":method", "CONNECT", ":authority", "not one"}, reset},
		{"two authorities", connect(":authority", "b:1"), reset},
		{"pseudo-field after a field", []string{":method", "CONNECT", "a", "b", ":authority", "a:1"}, reset},
		{"status", connect(":status", "200"), reset},
		{"connection field", connect("connection", "close"), reset},
		{"transfer-encoding", connect("transfer-encoding", "chunked"), reset},
		{"te", connect("te", "gzip"), reset},
		{"content-length", connect("content-length", "-1"), reset},
		{"GET without path", []string{":method", "GET", ":scheme", "https", ":authority", "a:1"}, reset},
		{"unknown pseudo-field", connect(":hostile", "yes"), reset},
		{"upper case", connect("Hostile", "yes"), reset},
		{"empty name", connect("", "yes"), reset},
		{"blank in a name", connect("a b", "yes"), reset},
		{"line break", connect("a", "b\r\nc"), reset},
		{"zero byte", connect("a", "b\x00c"), reset},
		{"blank in the method", []string{":method", "CON NECT", ":authority", "a:1"}, reset},
	} {
		t.Run(tt.name, func(t *testing.T) {
			handle := func(_ context.Context, s *Stream) { s.Reject(400) }
			serverTest(t, nil, handle, func(t *testing.T, sc *ServerConn, p *script, _ <-chan error) {
				p.writeHeaders(1, false, tt.fields...)
				switch tt.want {
				case served:
					p.wantStatus(1, "400")
					p.wantReset(1, http2.ErrCodeNo)
				case reset:
					p.wantReset(1, http2.ErrCodeProtocol)
				}
				p.wantAlive()
			})
		})
	}
}

// What traffic explains is no flood.
func TestServerExplainedControlFrames(t *testing.T) {
	serverTest(t, nil, echo, func(t *testing.T, sc *ServerConn, p *script, _ <-chan error) {
		p.writeConnect(1)
		p.wantStatus(1, "200")
		for range 2000 { // one PING and one window update for every 16 KiB
			p.writeData(1, false, strings.Repeat("x", 16<<10))
			p.must(p.fr.WritePing(false, [8]byte{}))
			p.must(p.fr.WriteWindowUpdate(1, 16<<10))
			p.must(p.fr.WriteWindowUpdate(0, 16<<10))
			for n, pinged := 0, false; n < 16<<10 || !pinged; {
				switch f := p.read().(type) {
				case *http2.DataFrame:
					n += len(f.Data())
				case *http2.PingFrame:
					pinged = true
				}
			}
		}
	})
}

func TestServerStreamErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(p *script)
		want http2.ErrCode
	}{
		{"window overflow", func(p *script) { p.fr.WriteWindowUpdate(1, 1<<31-1) }, http2.ErrCodeFlowControl},
		{"zero increment", func(p *script) { p.fr.WriteWindowUpdate(1, 0) }, http2.ErrCodeProtocol},
		{"trailers without end", func(p *script) { p.writeHeaders(1, false, "a", "b") }, http2.ErrCodeProtocol},
		{"PRIORITY of four bytes", func(p *script) { p.fr.WriteRawFrame(http2.FramePriority, 0, 1, make([]byte, 4)) }, http2.ErrCodeFrameSize},
		{"PRIORITY on itself", func(p *script) { p.fr.WritePriority(1, http2.PriorityParam{StreamDep: 1}) }, http2.ErrCodeProtocol},
		{"DATA after END_STREAM", func(p *script) { p.writeData(1, true, ""); p.writeData(1, false, "x") }, http2.ErrCodeStreamClosed},
		{"HEADERS after END_STREAM", func(p *script) { p.writeData(1, true, ""); p.writeHeaders(1, true, "a", "b") }, http2.ErrCodeStreamClosed},
		{"data beyond the window", func(p *script) {
			for range 257 {
				p.writeData(1, false, strings.Repeat("x", 16<<10))
			}
		}, http2.ErrCodeFlowControl},
	} {
		t.Run(tt.name, func(t *testing.T) {
			release := make(chan struct{})
			hold := func(_ context.Context, s *Stream) { s.Accept(nil); <-release }
			serverTest(t, nil, hold, func(t *testing.T, sc *ServerConn, p *script, _ <-chan error) {
				release = make(chan struct{})
				p.writeConnect(1)
				p.wantStatus(1, "200")
				tt.send(p)
				for {
					f, ok := p.read().(*http2.RSTStreamFrame)
					if !ok {
						continue
					}
					if f.StreamID != 1 || f.ErrCode != tt.want {
						t.Errorf("got %v, want a reset of 1 with %v", f, tt.want)
					}
					break
				}
				p.wantAlive()
				close(release)
			})
		})
	}
}

func TestServerStreamLimit(t *testing.T) {
	serverTest(t, &Config{MaxConcurrentStreams: 2}, echo, func(t *testing.T, sc *ServerConn, p *script, _ <-chan error) {
		p.writeConnect(1)
		p.wantStatus(1, "200")
		p.writeConnect(3)
		p.wantStatus(3, "200")
		p.writeConnect(5)
		p.wantReset(5, http2.ErrCodeRefusedStream)
		p.must(p.fr.WriteRSTStream(1, http2.ErrCodeCancel))
		p.writeConnect(7)
		p.wantStatus(7, "200")
	})
}

// Streams that are reset while their handlers are busy count until those are done.
func TestServerPendingResets(t *testing.T) {
	for name, reset := range map[string]func(p *script, id uint32) error{
		"by the peer": func(p *script, id uint32) error { return p.fr.WriteRSTStream(id, http2.ErrCodeCancel) },
		"provoked":    func(p *script, id uint32) error { return p.fr.WriteWindowUpdate(id, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			var release chan struct{}
			busy := func(context.Context, *Stream) { <-release }
			m := &Metrics{}
			serverTest(t, &Config{Metrics: m}, busy, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
				release = make(chan struct{})
				for i := range uint32(200) {
					p.writeConnect(2*i + 1)
					time.Sleep(2 * beginPatience) // its handler runs
					p.must(reset(p, 2*i+1))
				}
				synctest.Wait()
				if n := m.ResetFloods.Load(); n != 0 {
					t.Errorf("%d floods after 200 resets, want none", n)
				}
				p.writeConnect(401)
				time.Sleep(2 * beginPatience)
				p.must(reset(p, 401))
				start := time.Now()
				if code, err := p.goAway(); err != nil || code != http2.ErrCodeEnhanceYourCalm {
					sc.c.mu.Lock()
					t.Errorf("GOAWAY %v, %v after %v with %d pending, want ENHANCE_YOUR_CALM", code, err, time.Since(start), sc.pending)
					sc.c.mu.Unlock()
				}
				close(release)
				<-served
			})
		})
	}
}

// A stream that is reset before its handler begins has none.
func TestServerAbandoned(t *testing.T) {
	for name, reset := range map[string]func(p *script, id uint32) error{
		"by the peer": func(p *script, id uint32) error { return p.fr.WriteRSTStream(id, http2.ErrCodeCancel) },
		"provoked":    func(p *script, id uint32) error { return p.fr.WriteWindowUpdate(id, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			var begun []func() // handlers, in the order of their streams
			handled := 0
			cfg := &Config{Go: func(task func()) { begun = append(begun, task) }}
			count := func(_ context.Context, s *Stream) { handled++; _ = s.Reject(503) }
			serverTest(t, cfg, count, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
				p.writeConnect(1)
				p.must(reset(p, 1))
				p.writeConnect(3)
				synctest.Wait()
				for _, run := range begun {
					run()
				}
				if handled != 1 || len(begun) != 2 {
					t.Errorf("%d of %d streams were handled, want 1 of 2", handled, len(begun))
				}
				p.must(p.conn.Close())
				<-served
			})
		})
	}
}

func TestServerResetFlood(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(p *script, id uint32)
	}{
		{"by the peer", func(p *script, id uint32) {
			p.writeConnect(id)
			p.must(p.fr.WriteRSTStream(id, http2.ErrCodeCancel))
		}},
		{"provoked", func(p *script, id uint32) { p.writeHeaders(id, false, ":method", "CONNECT", ":path", "/") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			quick := func(_ context.Context, s *Stream) { s.Read(make([]byte, 1)) }
			m := &Metrics{}
			serverTest(t, &Config{Metrics: m}, quick, func(t *testing.T, sc *ServerConn, p *script, _ <-chan error) {
				for i := range uint32(1001) {
					tt.send(p, 2*i+1)
					synctest.Wait() // so that handlers are done
				}
				if code, err := p.goAway(); err != nil || code != http2.ErrCodeEnhanceYourCalm {
					t.Errorf("GOAWAY %v, %v, want ENHANCE_YOUR_CALM", code, err)
				}
				if n := m.ResetFloods.Load(); n != 1 {
					t.Errorf("ResetFloods = %d, want 1", n)
				}
			})
		})
	}
}

func TestServerTimeouts(t *testing.T) {
	for _, tt := range []struct {
		name string
		send string
	}{{"nothing", ""}, {"half a preface", http2.ClientPreface[:9]}, {"no SETTINGS", http2.ClientPreface}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := memPair()
				_, p, served := scriptClient(t, a, b, nil, echo)
				start := time.Now()
				io.WriteString(p.conn, tt.send)
				err := <-served
				var shake *HandshakeError
				var timeout *TimeoutError
				if took := time.Since(start); !errors.As(err, &shake) || !errors.As(err, &timeout) || took != 15*time.Second {
					t.Errorf("Serve() = %v after %v, want a HandshakeError by time after 15 s", err, took)
				}
			})
		})
	}
	t.Run("header block", func(t *testing.T) {
		serverTest(t, nil, echo, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
			start := time.Now()
			p.must(p.fr.WriteRawFrame(http2.FrameHeaders, 0, 1, []byte{0x82}))
			if code, err := p.goAway(); err != nil || code != http2.ErrCodeProtocol {
				t.Errorf("GOAWAY %v, %v, want PROTOCOL_ERROR", code, err)
			}
			if took := time.Since(start); took != 15*time.Second {
				t.Errorf("GOAWAY after %v, want 15 s", took)
			}
			<-served
		})
	})
	t.Run("TLS", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, b := memPair()
			start := time.Now()
			_, err := Server(t.Context(), b, serverTLS(), nil)
			var te *TLSError
			if took := time.Since(start); !errors.As(err, &te) || took != 15*time.Second {
				t.Errorf("Server() = %v after %v, want a TLSError after 15 s", err, took)
			}
		})
	})
}

func TestServerPreface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		_, p, served := scriptClient(t, a, b, nil, echo)
		io.WriteString(p.conn, "GET / HTTP/1.1\r\n\r\n")
		if err := <-served; err != nil {
			t.Errorf("Serve() = %v, want nil", err)
		}
		p.wantType(http2.FrameSettings)
		p.wantType(http2.FrameWindowUpdate)
		p.wantClosed()
	})
}

func TestServerPings(t *testing.T) {
	var end error
	read := func(_ context.Context, s *Stream) { s.Accept(nil); _, end = s.Read(make([]byte, 1)) }
	serverTest(t, nil, read, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
		start := time.Now()
		p.writeConnect(1)
		p.wantStatus(1, "200")
		p.wantType(http2.FramePing)
		p.wantGoAway(1, http2.ErrCodeNo)
		p.wantClosed()
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("ended after %v, want 30 s", took)
		}
		<-served
		if !errors.Is(end, ErrAborted) {
			t.Errorf("Read() = %v, want ErrAborted", end)
		}
	})
}

func TestServerDrain(t *testing.T) {
	serverTest(t, nil, echo, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
		p.writeConnect(1)
		p.wantStatus(1, "200")
		sc.Drain()
		p.wantGoAway(1<<31-1, http2.ErrCodeNo)
		ping := p.wantType(http2.FramePing).(*http2.PingFrame)
		p.writeConnect(3) // before the client knew
		p.wantStatus(3, "200")
		p.must(p.fr.WritePing(true, ping.Data))
		p.wantGoAway(3, http2.ErrCodeNo)
		p.writeConnect(5) // although it knew
		p.wantReset(5, http2.ErrCodeRefusedStream)
		for _, id := range []uint32{1, 3} {
			p.writeData(id, true, "x")
			p.wantData(id, 1)
			p.wantEnd(id)
		}
		p.wantGoAway(3, http2.ErrCodeNo)
		p.wantClosed()
		p.conn.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve() = %v, want nil", err)
		}
	})
}

func TestServerDrainIdle(t *testing.T) {
	serverTest(t, nil, echo, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
		start := time.Now()
		sc.Drain()
		p.wantGoAway(1<<31-1, http2.ErrCodeNo)
		ping := p.wantType(http2.FramePing).(*http2.PingFrame)
		p.must(p.fr.WritePing(true, ping.Data))
		p.wantGoAway(0, http2.ErrCodeNo)
		p.wantClosed()
		if err := <-served; err != nil || time.Since(start) > time.Second { // although the client does not close
			t.Errorf("Serve() = %v after %v, want nil at once", err, time.Since(start))
		}
	})
}

func TestServerAbort(t *testing.T) {
	cause := errors.New("certificate revoked")
	for name, abort := range map[string]func(*ServerConn, context.CancelCauseFunc){
		"Abort":   func(sc *ServerConn, _ context.CancelCauseFunc) { sc.Abort(cause) },
		"context": func(_ *ServerConn, cancel context.CancelCauseFunc) { cancel(cause) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := memPair()
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				var end error
				served := make(chan error, 1)
				server := make(chan *ServerConn, 1)
				go func() {
					sc, err := Server(t.Context(), b, serverTLS(), nil)
					if err != nil {
						t.Error(err)
					}
					server <- sc
					served <- sc.Serve(ctx, func(_ context.Context, s *Stream) {
						s.Accept(nil)
						_, end = s.Read(make([]byte, 1))
					})
				}()
				cc, err := Client(t.Context(), a, clientTLS(), nil)
				if err != nil {
					t.Fatal(err)
				}
				s, err := cc.Open(t.Context(), &Request{Authority: "a:1"})
				if err != nil {
					t.Fatal(err)
				}
				abort(<-server, cancel)
				if err := <-served; !errors.Is(err, cause) || !errors.Is(end, cause) {
					t.Errorf("Serve() = %v, Read() of its stream = %v, want %v", err, end, cause)
				}
				if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrAborted) {
					t.Errorf("Read() of the client = %v, want ErrAborted", err)
				}
				<-cc.Done()
			})
		})
	}
}

// GOAWAY from a client ends nothing that is under way.
func TestServerGoAwayFromClient(t *testing.T) {
	serverTest(t, nil, echo, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
		p.writeConnect(1)
		p.wantStatus(1, "200")
		p.must(p.fr.WriteGoAway(0, http2.ErrCodeNo, make([]byte, 10000)))
		p.writeData(1, true, "still here")
		p.wantData(1, 10)
		p.wantEnd(1)
		p.wantGoAway(1, http2.ErrCodeNo)
		p.wantClosed()
	})
}
