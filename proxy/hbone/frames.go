package hbone

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

const (
	frameHeader   = 9
	initialWindow = 65535 // RFC 9113 §6.9.2
	minMaxFrame   = 16384
	maxMaxFrame   = 1<<24 - 1
	maxWindow     = 1<<31 - 1
	maxStreamID   = 1<<31 - 1
	// maxControl is the longest control frame that is buffered as a whole. Of a
	// longer GOAWAY the rest is skipped; longer SETTINGS are a flood.
	maxControl = 4 << 10
)

// putHeader writes a frame header to b[:9].
func putHeader(b []byte, length int, kind http2.FrameType, flags http2.Flags, id uint32) {
	_ = b[8]
	b[0], b[1], b[2] = byte(length>>16), byte(length>>8), byte(length)
	b[3], b[4] = byte(kind), byte(flags)
	binary.BigEndian.PutUint32(b[5:], id)
}

func appendHeader(b []byte, length int, kind http2.FrameType, flags http2.Flags, id uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(kind), byte(flags))
	return binary.BigEndian.AppendUint32(b, id)
}

func appendWindowUpdate(b []byte, id, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendHeader(b, 4, http2.FrameWindowUpdate, 0, id), n)
}

func appendReset(b []byte, id uint32, code http2.ErrCode) []byte {
	return binary.BigEndian.AppendUint32(appendHeader(b, 4, http2.FrameRSTStream, 0, id), uint32(code))
}

func appendPing(b []byte, ack bool, data []byte) []byte {
	var flags http2.Flags
	if ack {
		flags = http2.FlagPingAck
	}
	return append(appendHeader(b, 8, http2.FramePing, flags, 0), data[:8]...)
}

func appendGoAway(b []byte, last uint32, code http2.ErrCode) []byte {
	b = binary.BigEndian.AppendUint32(appendHeader(b, 8, http2.FrameGoAway, 0, 0), last)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendSettingsAck(b []byte) []byte {
	return appendHeader(b, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
}

// appendOpening is what an end of a tunnel sends first: for a client the
// preface, then SETTINGS and the window of the tunnel.
func appendOpening(b []byte, cfg *Config, client bool) []byte {
	var settings []http2.Setting
	if client {
		b = append(b, http2.ClientPreface...)
		settings = append(settings, http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	} else {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: cfg.MaxConcurrentStreams})
	}
	settings = append(settings,
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: cfg.StreamWindow},
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: cfg.MaxFrameSize},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: cfg.Limits.HeaderList})
	b = appendHeader(b, 6*len(settings), http2.FrameSettings, 0, 0)
	for _, s := range settings {
		b = binary.BigEndian.AppendUint16(b, uint16(s.ID))
		b = binary.BigEndian.AppendUint32(b, s.Val)
	}
	if more := cfg.ConnectionWindow - initialWindow; more > 0 {
		b = appendWindowUpdate(b, 0, more)
	}
	return b
}

// payloadFor is how many bytes a DATA frame carries at most to a peer that
// allows frames of maxFrame: so many that frames with their headers fill whole
// TLS records.
func payloadFor(maxFrame uint32) int {
	n := min(int(maxFrame)+frameHeader, maxSendFrame) / maxPlaintext * maxPlaintext
	return n - frameHeader
}
