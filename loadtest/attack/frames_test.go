package attack

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A frame is one as it comes: also such as no framer would take.
type frame struct {
	http2.FrameHeader
	payload []byte
}

// want tells what a frame is instead; a length below 0 is any.
func (f *frame) want(kind http2.FrameType, flags http2.Flags, stream uint32, length int) error {
	if f.Type != kind || f.Flags != flags || f.StreamID != stream || length >= 0 && len(f.payload) != length {
		return fmt.Errorf("%v, want %v with flags %#x, stream %d, length %d", f.FrameHeader, kind, flags, stream, length)
	}
	return nil
}

// A grammar says whether a frame is what should come now on a tunnel, and
// completes a unit of the attack.
type grammar func(f *frame) (unit bool, err error)

// mostFrame is what a server takes that says nothing.
const mostFrame = 16 << 10

func readFrame(r io.Reader) (*frame, error) {
	h, err := http2.ReadFrameHeader(r)
	if err != nil {
		return nil, err
	}
	f := &frame{h, make([]byte, h.Length)}
	_, err = io.ReadFull(r, f.payload)
	return f, err
}

// handshake is the server's. It returns nil if the attacker broke it off.
func (s *sight) handshake(c net.Conn) *tls.Conn {
	tunnel := tls.Server(c, &tls.Config{
		Certificates: []tls.Certificate{certificate()}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
	})
	if err := tunnel.Handshake(); err != nil {
		s.left(fmt.Errorf("handshake: %w", err))
		return nil
	}
	state := tunnel.ConnectionState()
	if state.NegotiatedProtocol != "h2" || !bytes.Equal(state.PeerCertificates[0].Raw, certificate().Certificate[0]) {
		s.fail("the attacker speaks %q and is %v", state.NegotiatedProtocol, state.PeerCertificates[0].Subject)
		return nil
	}
	return tunnel
}

// hbone is attacked with frames, of which each tunnel has a grammar.
func hbone(rules func() grammar) handler {
	return func(s *sight, c *net.TCPConn) {
		if tunnel := s.handshake(c); tunnel != nil {
			s.frames(tunnel, rules())
		}
	}
}

// answers are what arrived: an attacker who does not take them gets stuck. When he
// has left nobody wants them, but there may still be something to read.
type answers struct{ io.Writer }

func (a answers) Write(p []byte) (int, error) {
	_, _ = a.Writer.Write(p)
	return len(p), nil
}

// frames reads what a client says who never leaves.
func (s *sight) frames(c io.ReadWriter, rule grammar) {
	r := bufio.NewReader(io.TeeReader(c, answers{bufio.NewWriter(c)}))
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(r, preface); err != nil {
		s.left(fmt.Errorf("read preface: %w", err))
		return
	}
	if string(preface) != http2.ClientPreface {
		s.fail("the preface is %q", preface)
		return
	}
	for n := 0; ; n++ {
		f, err := readFrame(r)
		if err != nil {
			s.left(fmt.Errorf("read frame: %w", err))
			return
		}
		var unit bool
		switch n {
		case 0:
			err = f.want(http2.FrameSettings, 0, 0, 0)
		case 1:
			err = f.want(http2.FrameSettings, http2.FlagSettingsAck, 0, 0)
		default:
			unit, err = rule(f)
		}
		if err == nil && len(f.payload) > mostFrame {
			err = fmt.Errorf("%v is refused for its size", f.FrameHeader)
		}
		if err != nil {
			s.fail("frame %d: %w", n, err)
			return
		}
		if n > 1 {
			s.step(unit)
		}
	}
}

func pings() grammar {
	return func(f *frame) (bool, error) { return true, f.want(http2.FramePing, 0, 0, 8) }
}

// settings change something each time.
func settings() grammar {
	var before uint32
	return func(f *frame) (bool, error) {
		if err := f.want(http2.FrameSettings, 0, 0, 6); err != nil {
			return false, err
		}
		id, value := http2.SettingID(binary.BigEndian.Uint16(f.payload)), binary.BigEndian.Uint32(f.payload[2:])
		if id != http2.SettingInitialWindowSize || value == before || value > 1<<31-1 {
			return false, fmt.Errorf("setting %v is %d after %d, want another window", id, value, before)
		}
		before = value
		return true, nil
	}
}

// connects are the requests of a tunnel.
type connects struct {
	decoder *hpack.Decoder
	n       uint32 // requests
}

// stream is that of the last request.
func (q *connects) stream() uint32 { return 2*q.n - 1 }

func newConnects() *connects { return &connects{decoder: hpack.NewDecoder(4096, nil)} }

// take takes a whole request.
func (q *connects) take(f *frame, authority string) error {
	q.n++
	if err := f.want(http2.FrameHeaders, http2.FlagHeadersEndHeaders, q.stream(), -1); err != nil {
		return err
	}
	fields, err := q.decoder.DecodeFull(f.payload)
	if err != nil {
		return err
	}
	if want := []hpack.HeaderField{{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: authority}}; !slices.Equal(fields, want) {
		return fmt.Errorf("the request has %v, want %v", fields, want)
	}
	return nil
}

// theApp is what a right request is for.
var theApp = netip.AddrPortFrom(victim, 8080).String()

// requests come one after the other, and nothing else.
func requests(authority string) func() grammar {
	return func() grammar {
		q := newConnects()
		return func(f *frame) (bool, error) { return true, q.take(f, authority) }
	}
}

// afterEach is requests with something behind each that must end the stream.
func afterEach(behind func(f *frame, stream uint32) error) func() grammar {
	return func() grammar {
		q, due := newConnects(), false
		return func(f *frame) (bool, error) {
			if due = !due; due {
				return false, q.take(f, theApp)
			}
			return true, behind(f, q.stream())
		}
	}
}

func reset(f *frame, stream uint32) error {
	if err := f.want(http2.FrameRSTStream, 0, stream, 4); err != nil {
		return err
	}
	if code := http2.ErrCode(binary.BigEndian.Uint32(f.payload)); code != http2.ErrCodeCancel {
		return fmt.Errorf("reset with %v, want %v", code, http2.ErrCodeCancel)
	}
	return nil
}

// noIncrement is an error of the stream, RFC 9113, section 6.9.
func noIncrement(f *frame, stream uint32) error {
	if err := f.want(http2.FrameWindowUpdate, 0, stream, 4); err != nil {
		return err
	}
	if increment := binary.BigEndian.Uint32(f.payload); increment != 0 {
		return fmt.Errorf("the increment is %d, want 0", increment)
	}
	return nil
}

// emptyFrames follow a request, which goes on.
func emptyFrames() grammar {
	q := newConnects()
	return func(f *frame) (bool, error) {
		if q.n == 0 {
			return false, q.take(f, theApp)
		}
		return true, f.want(http2.FrameData, 0, 1, 0)
	}
}

// priorities are of streams that were never begun, a new one each time.
func priorities() grammar {
	stream := uint32(1)
	return func(f *frame) (bool, error) {
		stream += 2
		return true, f.want(http2.FramePriority, 0, stream, 5)
	}
}

// endless begins a request whose list of headers goes on, in fragments of a size
// when they are decoded. unit tells whether the beginning is one.
func endless(size uint32, unit bool) func() grammar {
	return func() grammar {
		begun := false
		var got uint32
		decoder := hpack.NewDecoder(4096, func(field hpack.HeaderField) { got += field.Size() })
		return func(f *frame) (bool, error) {
			got = 0
			_, err := decoder.Write(f.payload)
			if !begun {
				begun = true
				return unit, errors.Join(err, f.want(http2.FrameHeaders, 0, 1, -1))
			}
			if got != size || size == 0 && f.Length > 0 {
				return false, fmt.Errorf("the %d bytes of the fragment stand for %d, want %d", f.Length, got, size)
			}
			return true, errors.Join(err, f.want(http2.FrameContinuation, 0, 1, -1))
		}
	}
}

// bombs are requests whose bytes stand for 4 KiB each, but for the first.
func bombs() grammar {
	var n, large uint32
	decoder := hpack.NewDecoder(4096, func(field hpack.HeaderField) {
		if field.Size() > 3900 {
			large++
		}
	})
	return func(f *frame) (bool, error) {
		large = 0
		if err := f.want(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 2*n+1, -1); err != nil {
			return false, err
		}
		if _, err := decoder.Write(f.payload); err != nil {
			return false, err
		}
		if err := decoder.Close(); err != nil {
			return false, err
		}
		if others := f.Length - min(f.Length, large); large < 10_000 || n > 0 && others > 8 {
			return false, fmt.Errorf("the block of %d bytes stands for %d large headers", f.Length, large)
		}
		n++
		return true, nil
	}
}
