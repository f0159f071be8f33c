package hbone

import (
	"encoding/binary"
	"errors"
	"io"

	"golang.org/x/net/http2"
)

// frameState is what the reader knows of a frame that has not arrived as a whole.
type frameState struct {
	kind  http2.FrameType
	flags http2.Flags
	id    uint32
	left  int // of the payload, padding excluded
	pad   int // padding behind it
	// DATA goes to its stream piece by piece.
	stream *Stream
	// inBlock is set from HEADERS to END_HEADERS; block holds the fragments
	// if there are several pieces.
	inBlock       bool
	blockEnd      bool // END_STREAM
	blockID       uint32
	onItself      bool // the block's stream depends on itself
	block         []byte
	continuations int
}

// errPreface is a client that does not speak HTTP/2. It gets no answer.
var errPreface = errors.New("the client did not send the preface of HTTP/2")

// errFirstFrame is a peer whose first frame is not SETTINGS (RFC 9113 §3.4).
var errFirstFrame = connError(http2.ErrCodeProtocol)

// read runs until the tunnel ends, which it makes sure of.
func (c *conn) read() {
	c.enter()
	defer c.leave()
	c.end(c.readBatches())
}

// readBatches decrypts all that is there, handles it, and sends what has to be
// answered once for all of it.
func (c *conn) readBatches() error {
	plain := inbox{class: classWarm}
	defer plain.discard()
	for {
		plain.drop()
		if err := c.rec.wait(); err != nil {
			return err
		}
		plain.room()
		space := plain.buf.b[plain.w:classRead[plain.buf.class]]
		n, err := c.rec.read(space)
		if err != nil {
			return err
		}
		plain.w += n
		plain.adapt(n, len(space)/2) // a record that has no room is left for the next read
		k, err := c.frames(plain.buf.b[plain.r:plain.w])
		plain.r += k
		if err != nil {
			return err
		}
		if c.ctrlSet.Load() {
			if c.controlFull() {
				c.cfg.Metrics.ControlFloods.Add(1)
				return connError(http2.ErrCodeEnhanceYourCalm)
			}
			c.kick()
		} else if c.rec.answered() {
			c.kick() // crypto/tls may have answered a key update
		}
	}
}

// frames handles the frames in p as far as they have arrived and returns how
// many bytes it is done with.
func (c *conn) frames(p []byte) (n int, err error) {
	all := len(p)
	if !c.gotPrefix && !c.client {
		if len(p) < len(http2.ClientPreface) {
			if string(p) != http2.ClientPreface[:len(p)] {
				return 0, errPreface
			}
			return 0, nil
		}
		if string(p[:len(http2.ClientPreface)]) != http2.ClientPreface {
			return 0, errPreface
		}
		p = p[len(http2.ClientPreface):]
		c.gotPrefix = true
	}
	f := &c.frame
	for {
		if f.left > 0 || f.pad > 0 {
			k, err := c.payload(f, p)
			p = p[k:]
			if err != nil || f.left > 0 || f.pad > 0 {
				return all - len(p), err
			}
			continue
		}
		if len(p) < frameHeader {
			return all - len(p), nil
		}
		k, err := c.begin(f, p)
		if err != nil {
			return all - len(p), err
		}
		if k == 0 {
			return all - len(p), nil
		}
		p = p[k:]
	}
}

// begin handles a frame header, and the frame if it is short and complete. It
// returns 0 if more is needed.
func (c *conn) begin(f *frameState, p []byte) (int, error) {
	n := int(p[0])<<16 | int(p[1])<<8 | int(p[2])
	kind, flags := http2.FrameType(p[3]), http2.Flags(p[4])
	id := binary.BigEndian.Uint32(p[5:]) & maxStreamID
	if n > int(c.cfg.MaxFrameSize) {
		return 0, connError(http2.ErrCodeFrameSize)
	}
	if f.inBlock && (kind != http2.FrameContinuation || id != f.blockID) {
		return 0, connError(http2.ErrCodeProtocol)
	}
	f.kind, f.flags, f.id = kind, flags, id
	switch kind {
	case http2.FrameData:
		return c.beginData(f, n, p[frameHeader:])
	case http2.FrameHeaders, http2.FrameContinuation:
		return c.beginBlock(f, n, p[frameHeader:])
	case http2.FrameSettings, http2.FramePing, http2.FrameRSTStream, http2.FrameWindowUpdate, http2.FramePriority:
		if n > maxControl {
			if kind != http2.FrameSettings {
				return 0, connError(http2.ErrCodeFrameSize)
			}
			c.cfg.Metrics.ControlFloods.Add(1)
			return 0, connError(http2.ErrCodeEnhanceYourCalm)
		}
		if len(p) < frameHeader+n {
			return 0, nil
		}
		return frameHeader + n, c.control(kind, flags, id, p[frameHeader:frameHeader+n])
	case http2.FrameGoAway:
		keep := min(n, maxControl)
		if len(p) < frameHeader+keep {
			return 0, nil
		}
		f.left, f.stream = n-keep, nil
		return frameHeader + keep, c.goAway(id, p[frameHeader:frameHeader+keep])
	case http2.FramePushPromise:
		return 0, connError(http2.ErrCodeProtocol)
	}
	if !c.gotFirst.Load() {
		return 0, errFirstFrame
	}
	f.left, f.stream = n, nil
	return frameHeader, c.countControl()
}

// padded reads the padding length of DATA and HEADERS. It returns how many bytes
// of p it took, -1 if it is not there yet.
func (f *frameState) padded(n int, p []byte, flag http2.Flags) (payload, took int, err error) {
	f.pad = 0
	if f.flags&flag == 0 {
		return n, 0, nil
	}
	if n == 0 {
		return 0, 0, connError(http2.ErrCodeFrameSize)
	}
	if len(p) == 0 {
		return 0, -1, nil
	}
	pad := int(p[0])
	if pad > n-1 {
		return 0, 0, connError(http2.ErrCodeProtocol)
	}
	f.pad = pad
	return n - 1 - pad, 1, nil
}

// beginData finds the stream of a DATA frame and accounts for all of the frame.
func (c *conn) beginData(f *frameState, n int, p []byte) (int, error) {
	payload, took, err := f.padded(n, p, http2.FlagDataPadded)
	if err != nil || took < 0 {
		return 0, err
	}
	c.mu.Lock()
	s := c.streams[f.id]
	idle := c.idleLocked(f.id)
	bad := http2.ErrCodeNo
	if s != nil {
		if s.recvClosed {
			bad = http2.ErrCodeStreamClosed
		} else if c.client && !s.answered {
			bad = http2.ErrCodeProtocol
		}
		s.payload = s.payload || payload > 0
	} else if !c.closed.mayCome(f.id) {
		bad = http2.ErrCodeStreamClosed
	} else if f.flags&http2.FlagDataEndStream != 0 {
		c.closed.peerEnded(f.id)
	}
	c.mu.Unlock()
	if f.id == 0 || idle {
		return 0, connError(http2.ErrCodeProtocol)
	}
	if bad != http2.ErrCodeNo {
		if err := c.streamError(f.id, bad); err != nil {
			return 0, err
		}
		s = nil
	}
	if err := c.received(s, int64(n)); err != nil {
		return 0, err
	}
	if payload == 0 && f.flags&http2.FlagDataEndStream == 0 {
		if err := c.countControl(); err != nil {
			return 0, err
		}
	}
	c.budget.explain(payload)
	if s != nil && n > payload {
		s.consumed(n - payload)
	}
	f.left, f.stream = payload, s
	if payload == 0 {
		c.endData(f)
	}
	return frameHeader + took, nil
}

// endData handles END_STREAM when the last byte has been delivered.
func (c *conn) endData(f *frameState) {
	if f.stream != nil && f.flags&http2.FlagDataEndStream != 0 {
		c.peerEnded(f.stream)
	}
	f.stream = nil
}

// payload takes what has arrived of the payload of a long frame.
func (c *conn) payload(f *frameState, p []byte) (int, error) {
	n := min(f.left, len(p))
	if n > 0 {
		f.left -= n
		switch f.kind {
		case http2.FrameData:
			if f.stream != nil {
				f.stream.deliver(p[:n])
			}
			if f.left == 0 {
				c.endData(f)
			}
		case http2.FrameHeaders, http2.FrameContinuation:
			f.block = append(f.block, p[:n]...)
		}
	}
	if f.left > 0 {
		return n, nil
	}
	pad := min(f.pad, len(p)-n)
	f.pad -= pad
	if f.pad == 0 && (f.kind == http2.FrameHeaders || f.kind == http2.FrameContinuation) {
		return n + pad, c.endFragment(f)
	}
	return n + pad, nil
}

// beginBlock handles the header of HEADERS or CONTINUATION. A block that has
// arrived as a whole in one frame is decoded where it is.
func (c *conn) beginBlock(f *frameState, n int, p []byte) (int, error) {
	took, fragment := 0, n
	if f.kind == http2.FrameHeaders {
		if f.id == 0 || f.id%2 == 0 || c.client && c.isIdle(f.id) {
			return 0, connError(http2.ErrCodeProtocol)
		}
		if !c.gotFirst.Load() {
			return 0, errFirstFrame
		}
		f.onItself = false
		var err error
		if fragment, took, err = f.padded(n, p, http2.FlagHeadersPadded); err != nil || took < 0 {
			return 0, err
		}
		if f.flags&http2.FlagHeadersPriority != 0 {
			if fragment < 5 {
				return 0, connError(http2.ErrCodeFrameSize)
			}
			if len(p) < took+5 {
				f.pad = 0 // the header is read again
				return 0, nil
			}
			f.onItself = binary.BigEndian.Uint32(p[took:])&maxStreamID == f.id
			took, fragment = took+5, fragment-5
		}
		f.blockID, f.blockEnd, f.continuations = f.id, f.flags&http2.FlagHeadersEndStream != 0, 0
		f.block = f.block[:0]
	} else {
		if !f.inBlock {
			return 0, connError(http2.ErrCodeProtocol)
		}
		if f.continuations++; f.continuations > c.cfg.Limits.Continuations {
			c.cfg.Metrics.HeaderFloods.Add(1)
			return 0, connError(http2.ErrCodeEnhanceYourCalm)
		}
	}
	if len(f.block)+fragment > int(c.cfg.Limits.HeaderList) {
		c.cfg.Metrics.HeaderFloods.Add(1)
		return 0, connError(http2.ErrCodeEnhanceYourCalm)
	}
	whole := took + fragment + f.pad
	if f.kind == http2.FrameHeaders && f.flags&http2.FlagHeadersEndHeaders != 0 && len(p) >= whole {
		f.pad = 0
		return frameHeader + whole, c.headers(f.blockID, p[took:took+fragment], f.blockEnd)
	}
	if !f.inBlock {
		f.inBlock = true
		c.timers.startHeaders(c)
	}
	f.left = fragment
	if fragment == 0 && f.pad == 0 {
		return frameHeader + took, c.endFragment(f)
	}
	return frameHeader + took, nil
}

// endFragment decodes the block after its last fragment.
func (c *conn) endFragment(f *frameState) error {
	if f.flags&http2.FlagHeadersEndHeaders == 0 {
		return nil
	}
	f.inBlock = false
	c.timers.stopHeaders()
	p := f.block
	f.block = nil
	return c.headers(f.blockID, p, f.blockEnd)
}

// idleLocked reports whether no frame may come for a stream yet.
func (c *conn) idleLocked(id uint32) bool {
	if c.client {
		return id%2 == 0 || id >= c.nextID
	}
	return id%2 == 0 || id > c.seenID
}

func (c *conn) isIdle(id uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idleLocked(id)
}

// headers handles a whole header block.
func (c *conn) headers(id uint32, p []byte, end bool) error {
	if c.client {
		return c.response(id, p, end)
	}
	return c.requested(id, p, end)
}

// trailers handles a second header block on a stream: it ends the stream or is
// an error.
func (c *conn) trailers(s *Stream, good, end bool) error {
	if !end || !good {
		return c.streamError(s.id, http2.ErrCodeProtocol)
	}
	c.peerEnded(s)
	return nil
}

// isEOF reports whether the peer just went away.
func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
