package hbone

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// clientTest runs our client against a script in a bubble, greeted.
func clientTest(t *testing.T, cfg *Config, run func(t *testing.T, cc *ClientConn, p *script), settings ...http2.Setting) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		cc, p := scriptServer(t, a, b, cfg)
		p.greetServer(settings...)
		run(t, cc, p)
	})
}

func TestClientOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		_, p := scriptServer(t, a, b, nil)
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(p.conn, preface); err != nil || string(preface) != http2.ClientPreface {
			t.Fatalf("preface = %q, %v", preface, err)
		}
		got := map[http2.SettingID]uint32{}
		p.wantType(http2.FrameSettings).(*http2.SettingsFrame).ForeachSetting(func(s http2.Setting) error {
			got[s.ID] = s.Val
			return nil
		})
		want := map[http2.SettingID]uint32{
			http2.SettingEnablePush: 0, http2.SettingInitialWindowSize: 4 << 20,
			http2.SettingMaxFrameSize: 1 << 20, http2.SettingMaxHeaderListSize: 16 << 10,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("SETTINGS differ (-want +got):\n%s", diff)
		}
		f := p.wantType(http2.FrameWindowUpdate).(*http2.WindowUpdateFrame)
		if f.StreamID != 0 || f.Increment != 16<<20-65535 {
			t.Errorf("WINDOW_UPDATE = %v, want 16 MiB for the tunnel", f)
		}
	})
}

func TestClientRequest(t *testing.T) {
	clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
		long := string(make([]byte, 0)) + "x" + string([]byte{'y'})
		for len(long) < 40<<10 {
			long += long
		}
		go cc.Open(context.Background(), &Request{Authority: "[::1]:80", Header: Header{{"baggage", "a=b"}, {"forwarded", `for="1.2.3.4:5"`}, {"long", long}}})
		id, fields, end := p.wantHeaders()
		want := []hpack.HeaderField{
			{Name: ":method", Value: "CONNECT"},
			{Name: ":authority", Value: "[::1]:80"},
			{Name: "baggage", Value: "a=b"},
			{Name: "forwarded", Value: `for="1.2.3.4:5"`},
			{Name: "long", Value: long},
		}
		if diff := cmp.Diff(want, fields); id != 1 || end || diff != "" {
			t.Errorf("request on %d, ended %t, differs (-want +got):\n%s", id, end, diff)
		}
	})
}

func TestClientResponses(t *testing.T) {
	clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
		for _, tt := range []struct {
			name    string
			respond func(id uint32)
			want    string
		}{
			{"200", func(id uint32) { p.writeHeaders(id, false, ":status", "200") }, ""},
			{"200 with fields", func(id uint32) { p.writeHeaders(id, false, ":status", "200", "baggage", "k=v") }, ""},
			{"informational first", func(id uint32) {
				p.writeHeaders(id, false, ":status", "103")
				p.writeHeaders(id, false, ":status", "200")
			}, ""},
			{"201", func(id uint32) { p.writeHeaders(id, false, ":status", "201") }, "http status: 201 Created"},
			{"401 and the end", func(id uint32) { p.writeHeaders(id, true, ":status", "401") }, "http status: 401 Unauthorized"},
			{"999", func(id uint32) { p.writeHeaders(id, true, ":status", "999") }, "http status: 999 <unknown status code>"},
			{"no status", func(id uint32) { p.writeHeaders(id, false, "a", "b") }, "h2 failed: stream error detected: unspecific protocol error detected"},
			{"status of two digits", func(id uint32) { p.writeHeaders(id, false, ":status", "20") }, "h2 failed: stream error detected: unspecific protocol error detected"},
			{"status after a field", func(id uint32) { p.writeHeaders(id, false, "a", "b", ":status", "200") }, "h2 failed: stream error detected: unspecific protocol error detected"},
			{"a request's fields", func(id uint32) { p.writeHeaders(id, false, ":method", "GET") }, "h2 failed: stream error detected: unspecific protocol error detected"},
			{"data first", func(id uint32) { p.writeData(id, false, "x") }, "h2 failed: stream error detected: unspecific protocol error detected"},
			{"the end first", func(id uint32) { p.writeData(id, true, "") }, "h2 failed: stream error detected: unspecific protocol error detected"},
			{
				"refused", func(id uint32) { p.fr.WriteRSTStream(id, http2.ErrCodeRefusedStream) },
				"h2 failed: stream error received: refused stream before processing any application logic",
			},
			{"cancelled", func(id uint32) { p.fr.WriteRSTStream(id, http2.ErrCodeCancel) }, "h2 failed: stream error received: stream no longer needed"},
		} {
			o := p.open(cc, tt.respond)
			if got := errorText(o.err); got != tt.want {
				t.Errorf("%s: Open() = %q, want %q", tt.name, got, tt.want)
			}
			if Unprocessed(o.err) {
				t.Errorf("%s: Unprocessed() = true, want false", tt.name)
			}
			if o.err == nil {
				o.s.Reset(http2.ErrCodeCancel)
			}
			drainScript(p)
		}
	})
}

// drainScript reads what is on its way to the script.
func drainScript(p *script) {
	p.must(p.fr.WritePing(false, [8]byte{7}))
	for {
		if f, ok := p.read().(*http2.PingFrame); ok && f.IsAck() && f.Data == [8]byte{7} {
			return
		}
	}
}

func TestClientUnprocessed(t *testing.T) {
	for _, tt := range []struct {
		name    string
		others  int // accepted before and still open
		ended   int // accepted before and over
		respond func(p *script, id uint32)
		want    bool
	}{
		{"refused alone", 0, 1, func(p *script, id uint32) { p.fr.WriteRSTStream(id, http2.ErrCodeRefusedStream) }, false},
		{"refused beside others", 1, 0, func(p *script, id uint32) { p.fr.WriteRSTStream(id, http2.ErrCodeRefusedStream) }, true},
		{"cancelled beside others", 1, 0, func(p *script, id uint32) { p.fr.WriteRSTStream(id, http2.ErrCodeCancel) }, false},
		{"GOAWAY for the first request", 0, 0, func(p *script, id uint32) { p.fr.WriteGoAway(0, http2.ErrCodeNo, nil) }, false},
		{"GOAWAY after others", 0, 1, func(p *script, id uint32) { p.fr.WriteGoAway(id-2, http2.ErrCodeNo, nil) }, true},
		{"GOAWAY that disowns others", 0, 1, func(p *script, id uint32) { p.fr.WriteGoAway(0, http2.ErrCodeNo, nil) }, false},
		{"end of the connection", 0, 1, func(p *script, id uint32) { p.conn.Close() }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
				for range tt.ended {
					p.accepted(cc).Reset(http2.ErrCodeCancel)
					p.wantType(http2.FrameRSTStream)
				}
				for range tt.others {
					p.accepted(cc)
				}
				o := p.open(cc, func(id uint32) { tt.respond(p, id) })
				var h2 *H2Error
				if !errors.As(o.err, &h2) || Unprocessed(o.err) != tt.want {
					t.Errorf("Open() = %v, Unprocessed() = %t, want an H2Error and %t", o.err, Unprocessed(o.err), tt.want)
				}
			})
		})
	}
}

// A tunnel that will not take a request says so before it sends anything.
func TestClientRefusesBeforeSending(t *testing.T) {
	clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
		s := p.accepted(cc)
		if _, err := cc.Open(t.Context(), &Request{}); !errors.Is(err, ErrTunnelFull) || !Unprocessed(err) {
			t.Errorf("Open() above the limit = %v, want ErrTunnelFull", err)
		}
		if cc.PeerMaxStreams() != 1 || cc.Active() != 1 || !cc.Usable() {
			t.Errorf("limit %d, active %d, usable %t, want 1, 1, true", cc.PeerMaxStreams(), cc.Active(), cc.Usable())
		}
		p.must(p.fr.WriteGoAway(1, http2.ErrCodeNo, nil))
		p.wantAlive()
		if _, err := cc.Open(t.Context(), &Request{}); !errors.Is(err, ErrTunnelClosing) || !Unprocessed(err) || cc.Usable() {
			t.Errorf("Open() after GOAWAY = %v, want ErrTunnelClosing", err)
		}
		s.Reset(http2.ErrCodeCancel)
		p.wantReset(1, http2.ErrCodeCancel)
		p.wantGoAway(0, http2.ErrCodeNo)
		p.wantClosed()
	}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
}

// Close waits for the last stream and then ends the tunnel in good order.
func TestClientClose(t *testing.T) {
	clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
		s := p.accepted(cc)
		cc.Close()
		p.wantAlive()
		if err := s.CloseWrite(); err != nil {
			t.Errorf("CloseWrite() = %v", err)
		}
		p.wantEnd(1)
		p.writeData(1, true, "bye")
		p.wantGoAway(0, http2.ErrCodeNo)
		p.wantClosed()
		if got, err := io.ReadAll(s); string(got) != "bye" || err != nil {
			t.Errorf("read %q, %v, want bye", got, err)
		}
		p.conn.Close()
		<-cc.Done()
		if err := cc.Err(); err != nil {
			t.Errorf("Err() = %v, want nil", err)
		}
	})
}

func TestClientTimeouts(t *testing.T) {
	t.Run("response", func(t *testing.T) {
		clientTest(t, &Config{PingInterval: -1}, func(t *testing.T, cc *ClientConn, p *script) {
			start := time.Now()
			_, err := cc.Open(t.Context(), &Request{Authority: "a:1"})
			var timeout *TimeoutError
			if took := time.Since(start); !errors.As(err, &timeout) || took != 30*time.Second {
				t.Errorf("Open() = %v after %v, want a TimeoutError after 30 s", err, took)
			}
			p.wantHeaders()
			p.wantReset(1, http2.ErrCodeCancel)
			time.Sleep(time.Second)
			start = time.Now()
			if _, err = cc.Open(t.Context(), &Request{Authority: "a:1"}); time.Since(start) != 30*time.Second {
				t.Errorf("second Open() = %v after %v, want it to fail after 30 s", err, time.Since(start))
			}
		})
	})
	t.Run("settings", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := memPair()
			cc, _ := scriptServer(t, a, b, nil)
			start := time.Now()
			_, err := cc.Open(t.Context(), &Request{Authority: "a:1"})
			var shake *HandshakeError
			if took := time.Since(start); !errors.As(err, &shake) || took > 15*time.Second {
				t.Errorf("Open() = %v after %v, want a HandshakeError after 15 s", err, took)
			}
		})
	})
	t.Run("TLS", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, _ := memPair()
			start := time.Now()
			_, err := Client(t.Context(), a, clientTLS(), nil)
			var te *TLSError
			var timeout *TimeoutError
			if took := time.Since(start); !errors.As(err, &te) || !errors.As(err, &timeout) || took != 15*time.Second {
				t.Errorf("Client() = %v after %v, want a TLSError by time after 15 s", err, took)
			}
		})
	})
	t.Run("caller", func(t *testing.T) {
		clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
			cause := errors.New("enough")
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
			defer cancel()
			if _, err := cc.Open(ctx, &Request{Authority: "a:1"}); !errors.Is(err, cause) {
				t.Errorf("Open() = %v, want %v", err, cause)
			}
			p.wantHeaders()
			p.wantReset(1, http2.ErrCodeCancel)
		})
	})
}

func TestClientPings(t *testing.T) {
	clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
		s := p.accepted(cc)
		start := time.Now()
		f := p.wantType(http2.FramePing).(*http2.PingFrame)
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("first PING after %v, want 10 s", took)
		}
		p.must(p.fr.WritePing(true, f.Data))
		p.wantType(http2.FramePing)
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("second PING after %v, want 20 s", took)
		}
		_, err := s.Read(make([]byte, 1))
		if took := time.Since(start); !errors.Is(err, ErrAborted) || took != 40*time.Second {
			t.Errorf("Read() = %v after %v, want the end after 40 s", err, took)
		}
	})
}

// Resets and ends as the reader of a stream sees them, after the data.
func TestClientStreamEnds(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   func(p *script)
		read  string
		close string
	}{
		{"END_STREAM", func(p *script) { p.writeData(1, true, "") }, "", ""},
		{"trailers", func(p *script) { p.writeHeaders(1, true, "a", "b") }, "", ""},
		{"NO_ERROR", func(p *script) { p.fr.WriteRSTStream(1, http2.ErrCodeNo) }, "", ""},
		{"CANCEL", func(p *script) { p.fr.WriteRSTStream(1, http2.ErrCodeCancel) }, "", "broken pipe"},
		{"STREAM_CLOSED", func(p *script) { p.fr.WriteRSTStream(1, http2.ErrCodeStreamClosed) }, "broken pipe", "broken pipe"},
		{
			"INTERNAL_ERROR", func(p *script) { p.fr.WriteRSTStream(1, http2.ErrCodeInternal) },
			"stream error received: unexpected internal error encountered", "protocol error: unexpected internal error encountered",
		},
		{"connection", func(p *script) { p.conn.Close() }, "stream closed because of a broken pipe", "stream closed because of a broken pipe"},
		{
			"GOAWAY with an error", func(p *script) { p.fr.WriteGoAway(1, http2.ErrCodeInternal, nil); p.conn.Close() },
			"connection error received: unexpected internal error encountered", "protocol error: unexpected internal error encountered",
		},
		{
			"trailers without end", func(p *script) { p.writeHeaders(1, false, "a", "b") },
			"stream error detected: unspecific protocol error detected", "protocol error: unspecific protocol error detected",
		},
		{
			"zero window update", func(p *script) { p.fr.WriteWindowUpdate(1, 0) },
			"stream error detected: unspecific protocol error detected", "protocol error: unspecific protocol error detected",
		},
		{
			"window overflow", func(p *script) { p.fr.WriteWindowUpdate(1, 1<<31-1) },
			"stream error detected: flow-control protocol violated", "protocol error: flow-control protocol violated",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
				s := p.accepted(cc)
				p.writeData(1, false, "last words")
				tt.end(p)
				synctest.Wait()
				got, err := io.ReadAll(s)
				if string(got) != "last words" || errorText(err) != tt.read {
					t.Errorf("read %q, %v, want the last words and %q", got, err, tt.read)
				}
				if err := s.CloseWrite(); errorText(err) != tt.close {
					t.Errorf("CloseWrite() = %v, want %q", err, tt.close)
				}
			})
		})
	}
}
