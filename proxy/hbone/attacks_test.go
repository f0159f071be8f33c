package hbone

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attacks are the known ways to harm an end of HTTP/2, each with the tests that
// hold it, as Test or Test/subtest.
var attacks = []struct {
	name  string
	tests []string
}{
	{"rapid reset (CVE-2023-44487)", []string{"TestServerResetFlood/by the peer", "TestServerPendingResets/by the peer"}},
	{"made you reset (CVE-2025-8671)", []string{"TestServerResetFlood/provoked", "TestServerPendingResets/provoked", "TestMadeYouReset"}},
	{"CONTINUATION flood (CVE-2024-27316)", []string{"TestServerViolations/continuation flood", "TestClientFloods/continuations"}},
	{"stream flood", []string{"TestServerStreamLimit", "TestBeginnings_TakeTurns", "TestBeginnings_GivenUp/by a flood", "TestHold/for its time"}},
	{"PING flood (CVE-2019-9512)", []string{"TestServerViolations/PING flood", "TestClientFloods/PING"}},
	{"SETTINGS flood (CVE-2019-9515)", []string{"TestServerViolations/SETTINGS flood", "TestServerViolations/SETTINGS too long", "TestClientFloods/SETTINGS"}},
	{"PRIORITY flood (CVE-2019-9513)", []string{"TestServerFloods/PRIORITY"}},
	{"empty frames (CVE-2019-9518)", []string{"TestServerFloods/empty DATA", "TestServerFloods/padding", "TestServerFloods/empty DATA on a closed stream", "TestClientFloods/empty DATA"}},
	{"RST_STREAM on closed streams", []string{"TestServerFloods/RST_STREAM on a closed stream"}},
	{"WINDOW_UPDATE flood", []string{"TestServerFloods/WINDOW_UPDATE"}},
	{"zero-length header fields (CVE-2019-9516)", []string{"TestServerFloods/empty fields", "TestServerRequests/empty name"}},
	{"data dribble (CVE-2019-9511)", []string{"TestDataDribble"}},
	{"internal data buffering (CVE-2019-9517)", []string{"TestStalledReader", "TestPitfallReaderReadsOnAFullTunnel", "TestPitfallPeakOfBuffers"}},
	{"data that no application takes", []string{"TestQueuedDataIsBounded", "TestPitfallFullApplicationStopsNobody"}},
	{"window overflow", []string{"TestServerViolations/window overflow", "TestServerStreamErrors/window overflow", "TestInitialWindow"}},
	{"data beyond the window", []string{"TestServerStreamErrors/data beyond the window"}},
	{"HPACK bomb (CVE-2016-6581)", []string{"TestServerViolations/header bomb"}},
	{"HPACK table of the peer's size", []string{"TestServerViolations/dynamic table beyond the limit"}},
	{"long header list", []string{"TestServerViolations/header list too long", "TestClientFloods/header list"}},
	{"changes of INITIAL_WINDOW_SIZE", []string{"TestInitialWindow"}},
	{"GOAWAY misuse", []string{"TestServerGoAwayFromClient", "TestServerFloods/GOAWAY", "TestClientUnprocessed"}},
	{"PUSH_PROMISE", []string{"TestServerViolations/PUSH_PROMISE", "TestClientViolations/PUSH_PROMISE"}},
	{"unknown frames", []string{"TestServerViolations/unknown frames", "TestClientFloods/unknown"}},
	{"informational responses without end", []string{"TestClientFloods/informational"}},
	{"responses that nobody waits for", []string{"TestClientFramesUnderWay", "TestClosedStreamsForget"}},
	{"slow preface", []string{"TestServerTimeouts/half a preface", "TestServerTimeouts/no SETTINGS"}},
	{"slow headers", []string{"TestServerTimeouts/header block"}},
	{"frames that stop half-way", []string{"TestServerPings"}},
	{"a server without streams", []string{"TestPoolPeerWithoutStreams"}},
	{"a server that never answers", []string{"TestClientTimeouts/response", "TestClientTimeouts/settings"}},
	{"a client of another protocol", []string{"TestServerPreface"}},
}

// Every attack that is listed has its tests.
func TestAttacksAreHeld(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	tests := map[string]string{} // by name, to the text that follows
	for part := range strings.SplitSeq(source.String(), "\nfunc ") {
		if name := regexp.MustCompile(`^Test\w+`).FindString(part); name != "" {
			tests[name] = part
		}
	}
	for _, a := range attacks {
		for _, name := range a.tests {
			test, sub, _ := strings.Cut(name, "/")
			if text, ok := tests[test]; !ok || !strings.Contains(text, `"`+sub) {
				t.Errorf("%s: there is no %s", a.name, name)
			}
		}
	}
}

// What carries nothing is taken up to a budget, and the tunnel ends beyond it.
func TestServerFloods(t *testing.T) {
	times := func(n int, send func(p *script, id uint32)) func(*script) {
		return func(p *script) {
			for i := range n {
				send(p, uint32(2*i+1))
			}
		}
	}
	const many = 400 // more than the budget and what one stream explains
	open := func(p *script) {
		p.writeConnect(1)
		p.wantStatus(1, "200")
	}
	for _, tt := range []struct {
		name  string
		begin func(p *script)
		send  func(p *script)
	}{
		{"PRIORITY", nil, times(many, func(p *script, id uint32) { p.fr.WritePriority(id, http2.PriorityParam{StreamDep: id + 2}) })},
		{"empty DATA", open, times(many, func(p *script, _ uint32) { p.fr.WriteData(1, false, nil) })},
		{"padding", open, times(many, func(p *script, _ uint32) { p.fr.WriteDataPadded(1, false, nil, make([]byte, 255)) })},
		{"empty DATA on a closed stream", func(p *script) {
			open(p)
			p.fr.WriteRSTStream(1, http2.ErrCodeCancel)
		}, times(many, func(p *script, _ uint32) { p.fr.WriteData(1, false, nil) })},
		{"RST_STREAM on a closed stream", open, times(many, func(p *script, _ uint32) { p.fr.WriteRSTStream(1, http2.ErrCodeCancel) })},
		{"WINDOW_UPDATE", open, times(many, func(p *script, _ uint32) { p.fr.WriteWindowUpdate(1, 1) })},
		{"GOAWAY", open, times(many, func(p *script, _ uint32) { p.fr.WriteGoAway(0, http2.ErrCodeNo, nil) })},
		{"empty fields", nil, func(p *script) {
			// One field of nothing in the table, and references to it: a byte each.
			block := append([]byte{0x40, 0, 0}, []byte(strings.Repeat("\xbe", 4000))...)
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &Metrics{}
			serverTest(t, &Config{Metrics: m}, echo, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
				if tt.begin != nil {
					tt.begin(p)
				}
				tt.send(p)
				if code, err := p.goAway(); err != nil || code != http2.ErrCodeEnhanceYourCalm {
					t.Errorf("GOAWAY %v, %v, want ENHANCE_YOUR_CALM", code, err)
				}
				if err := <-served; !Flood(err) {
					t.Errorf("Serve() = %v, want a flood", err)
				}
				if n := m.ControlFloods.Load() + m.HeaderFloods.Load(); n != 1 {
					t.Errorf("%d floods were counted, want 1", n)
				}
			})
		})
	}
}

// A client that has its streams reset by what it does wrong is cut off like one
// that resets them itself.
func TestMadeYouReset(t *testing.T) {
	connect := []string{":method", "CONNECT", ":authority", "a:1"}
	for _, tt := range []struct {
		name string
		send func(p *script, id uint32)
	}{
		{"window overflow", func(p *script, id uint32) { p.fr.WriteWindowUpdate(id, 1<<31-1) }},
		{"zero increment", func(p *script, id uint32) { p.fr.WriteWindowUpdate(id, 0) }},
		{"DATA after END_STREAM", func(p *script, id uint32) { p.writeData(id, true, ""); p.writeData(id, false, "x") }},
		{"HEADERS after END_STREAM", func(p *script, id uint32) { p.writeData(id, true, ""); p.writeHeaders(id, true, "a", "b") }},
		{"PRIORITY of four bytes", func(p *script, id uint32) { p.fr.WriteRawFrame(http2.FramePriority, 0, id, make([]byte, 4)) }},
		{"PRIORITY on itself", func(p *script, id uint32) { p.fr.WritePriority(id, http2.PriorityParam{StreamDep: id}) }},
		{"malformed trailers", func(p *script, id uint32) { p.writeHeaders(id, true, ":status", "200") }},
		{"trailers without end", func(p *script, id uint32) { p.writeHeaders(id, false, "a", "b") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var release chan struct{}
			hold := func(context.Context, *Stream) { <-release }
			serverTest(t, &Config{MaxConcurrentStreams: 1 << 20}, hold, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
				release = make(chan struct{})
				ended := make(chan http2.ErrCode, 1)
				go func() {
					code, _ := p.goAway()
					ended <- code
				}()
				for i := range uint32(1001) {
					p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: p.block(connect...), EndHeaders: true})
					tt.send(p, 2*i+1)
				}
				if code := <-ended; code != http2.ErrCodeEnhanceYourCalm {
					t.Errorf("GOAWAY %v, want ENHANCE_YOUR_CALM", code)
				}
				close(release)
			})
		})
	}
}

// A window of one byte makes us send single bytes, each for a frame of the peer;
// nothing is buffered for it meanwhile.
func TestDataDribble(t *testing.T) {
	var written int
	source := func(_ context.Context, s *Stream) {
		if s.Accept(nil) == nil {
			written, _ = s.Write(make([]byte, 1<<20))
		}
	}
	serverTest(t, nil, source, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
		p.writeConnect(1)
		p.wantStatus(1, "200")
		for range 100 {
			p.wantData(1, 1)
			p.must(p.fr.WriteWindowUpdate(1, 1))
		}
		p.wantData(1, 1)
		synctest.Wait()
		p.wantAlive()
		p.must(p.fr.WriteRSTStream(1, http2.ErrCodeCancel))
		synctest.Wait()
		if written != 101 {
			t.Errorf("%d bytes were taken from the application, want the 101 of the window", written)
		}
	}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
}

// A peer that opens its windows and then does not read the connection stops those
// who write to it, and what it makes us answer is bounded too.
func TestStalledReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		var written int
		source := func(_ context.Context, s *Stream) {
			if s.Accept(nil) == nil {
				written, _ = s.Write(make([]byte, 8<<20))
			}
		}
		m := &Metrics{}
		_, p, served := scriptClient(t, a, b, &Config{PingInterval: -1, Metrics: m, Limits: Limits{ControlFrames: 1 << 20}}, source)
		p.greetClient(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
		p.must(p.fr.WriteWindowUpdate(0, 1<<31-1-65535))
		b.out.mu.Lock()
		b.out.limit = 64 << 10
		b.out.mu.Unlock()
		p.writeConnect(1)
		synctest.Wait()
		b.out.mu.Lock()
		waiting := len(b.out.data)
		b.out.mu.Unlock()
		if most := 2 << 20; waiting > most {
			t.Errorf("%d bytes are on their way to a peer that does not read, want at most %d", waiting, most)
		}
		for range maxWaitingControl / 17 * 2 {
			if p.fr.WritePing(false, [8]byte{}) != nil {
				break
			}
		}
		if err := <-served; !Flood(err) || m.ControlFloods.Load() != 1 {
			t.Errorf("Serve() = %v, want a flood", err)
		}
		if written >= 8<<20 {
			t.Error("all was taken from the application")
		}
	})
}

// INITIAL_WINDOW_SIZE may change at will, also so that windows become negative,
// but not beyond the limit of any stream.
func TestInitialWindow(t *testing.T) {
	source := func(_ context.Context, s *Stream) {
		if s.Accept(nil) == nil {
			s.Write(make([]byte, 30))
			s.CloseWrite()
			io.Copy(io.Discard, s)
		}
	}
	size := func(n uint32) http2.Setting { return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n} }
	serverTest(t, nil, source, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
		p.writeConnect(1)
		p.wantStatus(1, "200")
		p.wantData(1, 20)
		var wild []http2.Setting
		for range 300 {
			wild = append(wild, size(1<<31-1), size(0))
		}
		wild = append(wild, size(5)) // 15 too little
		p.must(p.fr.WriteSettings(wild...))
		p.wantType(http2.FrameSettings)
		p.must(p.fr.WriteWindowUpdate(1, 15))
		p.wantAlive()
		p.must(p.fr.WriteWindowUpdate(1, 1))
		p.wantData(1, 1)
		p.must(p.fr.WriteWindowUpdate(1, 1<<30))
		p.wantData(1, 9)
		p.wantEnd(1)
		p.must(p.fr.WriteSettings(size(1<<31 - 1)))
		if code, err := p.goAway(); err != nil || code != http2.ErrCodeFlowControl {
			t.Errorf("GOAWAY %v, %v, want FLOW_CONTROL_ERROR", code, err)
		}
	}, size(20))
}

// What the RFC forbids a server ends the tunnel with its code.
func TestClientViolations(t *testing.T) {
	raw := func(kind http2.FrameType, flags http2.Flags, id uint32, n int) func(*script) {
		return func(p *script) { p.fr.WriteRawFrame(kind, flags, id, make([]byte, n)) }
	}
	for _, tt := range []struct {
		name string
		send func(*script)
		want http2.ErrCode
	}{
		{"PUSH_PROMISE", raw(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 1, 4), http2.ErrCodeProtocol},
		{"ENABLE_PUSH", func(p *script) { p.fr.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 1}) }, http2.ErrCodeProtocol},
		{"HEADERS on an idle stream", func(p *script) { p.writeHeaders(3, false, ":status", "200") }, http2.ErrCodeProtocol},
		{"HEADERS on a stream of the server", func(p *script) { p.writeHeaders(2, false, ":status", "200") }, http2.ErrCodeProtocol},
		{"DATA on an idle stream", raw(http2.FrameData, 0, 3, 1), http2.ErrCodeProtocol},
		{"RST_STREAM on a stream of the server", raw(http2.FrameRSTStream, 0, 2, 4), http2.ErrCodeProtocol},
		{"WINDOW_UPDATE of three bytes", raw(http2.FrameWindowUpdate, 0, 1, 3), http2.ErrCodeFrameSize},
		{"PING of nine bytes", raw(http2.FramePing, 0, 0, 9), http2.ErrCodeFrameSize},
		{"SETTINGS of a byte", raw(http2.FrameSettings, 0, 0, 1), http2.ErrCodeFrameSize},
		{"undecodable HPACK", func(p *script) {
			p.fr.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, []byte{0xff, 0xff})
		}, http2.ErrCodeCompression},
		{"response after the end", func(p *script) {
			p.fr.WriteRSTStream(1, http2.ErrCodeCancel)
			p.writeHeaders(1, false, ":status", "200")
		}, http2.ErrCodeStreamClosed},
		{"window overflow", func(p *script) { p.fr.WriteWindowUpdate(0, 1<<31-1) }, http2.ErrCodeFlowControl},
	} {
		t.Run(tt.name, func(t *testing.T) { clientGoAway(t, tt.send, tt.want) })
	}
}

// Floods of a server.
func TestClientFloods(t *testing.T) {
	times := func(send func(p *script)) func(*script) {
		return func(p *script) {
			for range 400 {
				send(p)
			}
		}
	}
	for _, tt := range []struct {
		name string
		send func(*script)
	}{
		{"PING", times(func(p *script) { p.fr.WritePing(false, [8]byte{}) })},
		{"SETTINGS", times(func(p *script) { p.fr.WriteSettings() })},
		{"unknown", times(func(p *script) { p.fr.WriteRawFrame(0x42, 0, 0, nil) })},
		{"informational", times(func(p *script) { p.writeHeaders(1, false, ":status", "100") })},
		{"empty DATA", func(p *script) {
			p.writeHeaders(1, false, ":status", "200")
			times(func(p *script) { p.fr.WriteData(1, false, nil) })(p)
		}},
		{"continuations", func(p *script) {
			p.fr.WriteRawFrame(http2.FrameHeaders, 0, 1, nil)
			times(func(p *script) { p.fr.WriteContinuation(1, false, nil) })(p)
		}},
		{"header list", func(p *script) { p.writeHeaders(1, false, ":status", "200", "a", strings.Repeat("x", 17<<10)) }},
	} {
		t.Run(tt.name, func(t *testing.T) { clientGoAway(t, tt.send, http2.ErrCodeEnhanceYourCalm) })
	}
}

// clientGoAway checks with which code our client leaves a server that does
// something while a request is open.
func clientGoAway(t *testing.T, send func(*script), want http2.ErrCode) {
	t.Helper()
	clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
		opened := make(chan struct{})
		go func() {
			defer close(opened)
			if s, err := cc.Open(context.Background(), &Request{Authority: "a:1"}); err == nil {
				defer s.Close()
			}
		}()
		p.wantHeaders()
		send(p)
		if code, err := p.goAway(); err != nil || code != want {
			t.Errorf("GOAWAY %v, %v, want %v", code, err, want)
		}
		p.conn.Close()
		<-opened
		<-cc.Done()
	})
}

// The decoder takes no larger table than we announce, by default 4 KiB.
func TestDecoderTable(t *testing.T) {
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSizeLimit(1 << 20)
	e.SetMaxDynamicTableSize(1 << 20)
	if err := e.WriteField(hpack.HeaderField{Name: "a", Value: "b"}); err != nil {
		t.Fatal(err)
	}
	c := fuzzConn(false, false)
	defer c.drop(nil)
	if _, err := c.decode([]byte(b.String())); errorText(err) != errorText(connError(http2.ErrCodeCompression)) {
		t.Errorf("decode() = %v, want COMPRESSION_ERROR", err)
	}
}
