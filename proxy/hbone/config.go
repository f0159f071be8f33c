package hbone

import (
	"log/slog"
	"time"
)

// Config is how tunnels behave. The zero value of each field means the default
// named there. A Config must not be changed after its first use; it may be
// shared by any number of tunnels.
type Config struct {
	// StreamWindow is SETTINGS_INITIAL_WINDOW_SIZE: how many bytes a peer may
	// send on a stream beyond what the application has taken. Default 4 MiB.
	StreamWindow uint32
	// ConnectionWindow is the same for the tunnel as a whole. Default 16 MiB.
	// Twice as much may wait for applications that take
	// nothing before the peer has to wait too.
	ConnectionWindow uint32
	// MaxFrameSize is SETTINGS_MAX_FRAME_SIZE, between 16,384 and 16,777,215.
	// Default 1 MiB.
	MaxFrameSize uint32

	// PingInterval is the pause between an answered keepalive PING and the
	// next, and before the first. Negative: no PINGs. Default 10 s.
	PingInterval time.Duration
	// PingTimeout is how long the answer to a PING may take before the tunnel
	// is given up. Default 20 s.
	PingTimeout time.Duration
	// HandshakeTimeout limits TLS, and separately the peer's preface and
	// SETTINGS. Default 15 s.
	HandshakeTimeout time.Duration
	// ConnectTimeout limits the time from a CONNECT to its response (client).
	// Default 30 s.
	ConnectTimeout time.Duration
	// HeaderTimeout limits the time from the first to the last frame of a
	// header block. Default 15 s.
	HeaderTimeout time.Duration

	// MaxConcurrentStreams is how many streams a client may have open at once
	// (server). Default 200.
	MaxConcurrentStreams uint32
	// AssumedStreams is the peer's limit of streams before its SETTINGS have
	// arrived (client). Default 100.
	AssumedStreams uint32
	// Limits bound what a peer can make us do for nothing.
	Limits Limits

	// CryptoTLS leaves the protection of records to crypto/tls after the
	// handshake too, which is slower. Default false: see package tls13.
	CryptoTLS bool

	// Go starts the handler of a stream (server). Nil starts a goroutine for each.
	Go func(func())
	// Metrics counts events of all tunnels that share it. Nil: not counted.
	Metrics *Metrics
	// Log receives what is logged per tunnel. Nil: nothing is logged.
	Log *slog.Logger
}

// Limits are budgets whose excess ends a tunnel with ENHANCE_YOUR_CALM. Zero
// fields take their defaults.
type Limits struct {
	// ControlFrames is how many PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty
	// DATA, informational and unknown frames per Period are taken beyond what
	// the traffic of the tunnel explains. Default 200.
	ControlFrames int
	// Resets is how many streams per Period may be reset before they carried a
	// byte, by the peer or by us for the peer's fault. Default 1,000.
	Resets int
	// PendingResets is how many streams that the peer has reset may still be
	// busy in their handlers (server). Default 200.
	PendingResets int
	// HeaderList is the size of a header list by the rule of RFC 9113
	// §10.5.1, announced as SETTINGS_MAX_HEADER_LIST_SIZE. Default 65,536 for
	// a server and 16,384 for a client.
	HeaderList uint32
	// Continuations is the number of CONTINUATION frames of one header block.
	// Default 16.
	Continuations int
	// Period is the time over which frames and resets are counted.
	// Default 10 s.
	Period time.Duration
}

// DefaultHandshakeTimeout is Config.HandshakeTimeout where that is zero.
const DefaultHandshakeTimeout = 15 * time.Second

const (
	// maxSendFrame is the largest DATA frame with its header that is sent,
	// however large a frame the peer allows: sixteen full TLS records.
	maxSendFrame = 256 << 10
	// notSentLowat is TCP_NOTSENT_LOWAT of the tunnel's socket: without it one
	// bulk stream fills the kernel's send queue and all others wait behind it.
	notSentLowat = 128 << 10
)

// withDefaults returns a copy in which nothing is zero.
func (cfg *Config) withDefaults(client bool) *Config {
	var c Config
	if cfg != nil {
		c = *cfg
	}
	list := uint32(64 << 10)
	if client {
		list = 16 << 10
	}
	orUint32(&c.StreamWindow, 4<<20)
	orUint32(&c.ConnectionWindow, 16<<20)
	orUint32(&c.MaxFrameSize, 1<<20)
	orUint32(&c.MaxConcurrentStreams, 200)
	orUint32(&c.AssumedStreams, 100)
	orUint32(&c.Limits.HeaderList, list)
	orDuration(&c.PingInterval, 10*time.Second)
	orDuration(&c.PingTimeout, 20*time.Second)
	orDuration(&c.HandshakeTimeout, DefaultHandshakeTimeout)
	orDuration(&c.ConnectTimeout, 30*time.Second)
	orDuration(&c.HeaderTimeout, 15*time.Second)
	orDuration(&c.Limits.Period, 10*time.Second)
	orInt(&c.Limits.ControlFrames, 200)
	orInt(&c.Limits.Resets, 1000)
	orInt(&c.Limits.PendingResets, 200)
	orInt(&c.Limits.Continuations, 16)
	c.StreamWindow = min(c.StreamWindow, 1<<31-1)
	c.ConnectionWindow = min(max(c.ConnectionWindow, initialWindow), 1<<31-1)
	c.MaxFrameSize = min(max(c.MaxFrameSize, minMaxFrame), maxMaxFrame)
	if c.Go == nil {
		c.Go = func(f func()) { go f() }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = &Metrics{}
	}
	return &c
}

func orUint32(v *uint32, d uint32) {
	if *v == 0 {
		*v = d
	}
}

func orInt(v *int, d int) {
	if *v == 0 {
		*v = d
	}
}

func orDuration(v *time.Duration, d time.Duration) {
	if *v == 0 {
		*v = d
	}
}
