package hbone

import (
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// What RFC 9113 calls a connection error ends the connection, with the RFC's code.
func TestServerViolations(t *testing.T) {
	raw := func(kind http2.FrameType, flags http2.Flags, id uint32, payload ...byte) func(*script) {
		return func(p *script) { p.fr.WriteRawFrame(kind, flags, id, payload) }
	}
	zeros := func(n int) []byte { return make([]byte, n) }
	setting := func(id http2.SettingID, v uint32) func(*script) {
		return func(p *script) { p.fr.WriteSettings(http2.Setting{ID: id, Val: v}) }
	}
	const idle = 1<<31 - 1
	for _, tt := range []struct {
		name string
		send func(*script)
		want http2.ErrCode
	}{
		{"DATA on 0", raw(http2.FrameData, 0, 0, 1), http2.ErrCodeProtocol},
		{"DATA on an idle stream", raw(http2.FrameData, 0, idle, 1), http2.ErrCodeProtocol},
		{"HEADERS on 0", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 0), http2.ErrCodeProtocol},
		{"HEADERS on an even stream", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 2, 0x82), http2.ErrCodeProtocol},
		{"PRIORITY on 0", raw(http2.FramePriority, 0, 0, zeros(5)...), http2.ErrCodeProtocol},
		{"RST_STREAM on 0", raw(http2.FrameRSTStream, 0, 0, zeros(4)...), http2.ErrCodeProtocol},
		{"RST_STREAM of three bytes", raw(http2.FrameRSTStream, 0, 1, zeros(3)...), http2.ErrCodeFrameSize},
		{"RST_STREAM on an idle stream", raw(http2.FrameRSTStream, 0, idle, zeros(4)...), http2.ErrCodeProtocol},
		{"WINDOW_UPDATE of zero", raw(http2.FrameWindowUpdate, 0, 0, zeros(4)...), http2.ErrCodeProtocol},
		{"WINDOW_UPDATE of five bytes", raw(http2.FrameWindowUpdate, 0, 0, zeros(5)...), http2.ErrCodeFrameSize},
		{"WINDOW_UPDATE on an idle stream", func(p *script) { p.fr.WriteWindowUpdate(idle, 1) }, http2.ErrCodeProtocol},
		{"window overflow", func(p *script) { p.fr.WriteWindowUpdate(0, 1<<31-1) }, http2.ErrCodeFlowControl},
		{"SETTINGS on a stream", raw(http2.FrameSettings, 0, 1, zeros(6)...), http2.ErrCodeProtocol},
		{"SETTINGS of five bytes", raw(http2.FrameSettings, 0, 0, zeros(5)...), http2.ErrCodeFrameSize},
		{"SETTINGS ack with a payload", raw(http2.FrameSettings, http2.FlagSettingsAck, 0, zeros(6)...), http2.ErrCodeFrameSize},
		{"SETTINGS ack for nothing", raw(http2.FrameSettings, http2.FlagSettingsAck, 0), http2.ErrCodeProtocol},
		{"SETTINGS too long", raw(http2.FrameSettings, 0, 0, zeros(6000)...), http2.ErrCodeEnhanceYourCalm},
		{"PING on a stream", raw(http2.FramePing, 0, 1, zeros(8)...), http2.ErrCodeProtocol},
		{"PING of seven bytes", raw(http2.FramePing, 0, 0, zeros(7)...), http2.ErrCodeFrameSize},
		{"GOAWAY on a stream", raw(http2.FrameGoAway, 0, 1, zeros(8)...), http2.ErrCodeProtocol},
		{"CONTINUATION alone", raw(http2.FrameContinuation, 0, 1), http2.ErrCodeProtocol},
		{"PUSH_PROMISE", raw(http2.FramePushPromise, 0, 1, zeros(4)...), http2.ErrCodeProtocol},
		{"ENABLE_PUSH of 2", setting(http2.SettingEnablePush, 2), http2.ErrCodeProtocol},
		{"INITIAL_WINDOW_SIZE of 2^31", setting(http2.SettingInitialWindowSize, 1<<31), http2.ErrCodeFlowControl},
		{"MAX_FRAME_SIZE of 16383", setting(http2.SettingMaxFrameSize, 16383), http2.ErrCodeProtocol},
		{"MAX_FRAME_SIZE of 2^24", setting(http2.SettingMaxFrameSize, 1<<24), http2.ErrCodeProtocol},
		{"oversize frame", raw(0x42, 0, 0, zeros(1<<20+1)...), http2.ErrCodeFrameSize},
		{"undecodable HPACK", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, 0xff, 0xff, 0xff, 0xff), http2.ErrCodeCompression},
		{"HPACK cut short", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, 0x02, 0x07, 'C'), http2.ErrCodeCompression},
		{"PING inside a block", func(p *script) {
			p.fr.WriteRawFrame(http2.FrameHeaders, 0, 1, []byte{0x82})
			p.fr.WritePing(false, [8]byte{})
		}, http2.ErrCodeProtocol},
		{"CONTINUATION of another stream", func(p *script) {
			p.fr.WriteRawFrame(http2.FrameHeaders, 0, 1, []byte{0x82})
			p.fr.WriteContinuation(3, true, nil)
		}, http2.ErrCodeProtocol},
		{"PADDED without a length", raw(http2.FrameHeaders, http2.FlagHeadersPadded|http2.FlagHeadersEndHeaders, 1), http2.ErrCodeFrameSize},
		{"HEADERS with half a priority", raw(http2.FrameHeaders, http2.FlagHeadersPriority|http2.FlagHeadersEndHeaders, 1, 0, 0), http2.ErrCodeFrameSize},
		{"RST_STREAM of a megabyte", raw(http2.FrameRSTStream, 0, 1, zeros(1<<20)...), http2.ErrCodeFrameSize},
		{"GOAWAY of seven bytes", raw(http2.FrameGoAway, 0, 0, zeros(7)...), http2.ErrCodeFrameSize},
		{"PRIORITY of four bytes on an idle stream", raw(http2.FramePriority, 0, idle, zeros(4)...), http2.ErrCodeFrameSize},
		{"dynamic table beyond the limit", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, 0x3f, 0xe2, 0x1f), http2.ErrCodeCompression},
		{"stream numbers that go down", func(p *script) { p.writeConnect(5); p.writeConnect(3) }, http2.ErrCodeProtocol},
		{"HEADERS on a stream that both have ended", func(p *script) {
			p.writeHeaders(1, true, ":method", "CONNECT", ":authority", "a:1")
			p.wantStatus(1, "200")
			p.wantEnd(1)
			p.writeHeaders(1, true, "a", "b")
		}, http2.ErrCodeStreamClosed},
		{"HEADERS after RST_STREAM", func(p *script) {
			p.writeConnect(1)
			p.fr.WriteRSTStream(1, http2.ErrCodeCancel)
			p.writeHeaders(1, true, "a", "b")
		}, http2.ErrCodeStreamClosed},
		{"too much padding", raw(http2.FrameHeaders, http2.FlagHeadersPadded|http2.FlagHeadersEndHeaders, 1, 200, 0x82), http2.ErrCodeProtocol},
		{"continuation flood", func(p *script) {
			p.fr.WriteRawFrame(http2.FrameHeaders, 0, 1, nil)
			for range 17 {
				p.fr.WriteContinuation(1, false, nil)
			}
		}, http2.ErrCodeEnhanceYourCalm},
		{"header list too long", func(p *script) {
			p.writeHeaders(1, false, ":method", "CONNECT", ":authority", "a:1", "a", strings.Repeat("x", 40<<10), "b", strings.Repeat("x", 40<<10))
		}, http2.ErrCodeEnhanceYourCalm},
		{"header bomb", func(p *script) {
			fields := []string{":method", "CONNECT", ":authority", "a:1"}
			for range 1000 {
				fields = append(fields, "bomb", strings.Repeat("b", 4000))
			}
			p.writeHeaders(1, false, fields...)
		}, http2.ErrCodeEnhanceYourCalm},
		{"PING flood", func(p *script) {
			for range 201 {
				p.fr.WritePing(false, [8]byte{})
			}
		}, http2.ErrCodeEnhanceYourCalm},
		{"SETTINGS flood", func(p *script) {
			for range 201 {
				p.fr.WriteSettings()
			}
		}, http2.ErrCodeEnhanceYourCalm},
		{"unknown frames", func(p *script) {
			for range 201 {
				p.fr.WriteRawFrame(0x42, 0, 0, zeros(5000))
			}
		}, http2.ErrCodeEnhanceYourCalm},
	} {
		t.Run(tt.name, func(t *testing.T) {
			serverTest(t, nil, echo, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
				tt.send(p)
				if code, err := p.goAway(); err != nil || code != tt.want {
					t.Errorf("GOAWAY %v, %v, want %v", code, err, tt.want)
				}
				if err := <-served; err == nil {
					t.Error("Serve() = nil, want an error")
				}
			})
		})
	}
}
