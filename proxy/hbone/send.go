package hbone

import (
	"golang.org/x/net/http2"

	"ztunnel/proxy/relay"
)

// appendData appends b[9:] as DATA frames, with their headers written over what
// has been sent before. The caller holds wmu and has the window.
func (s *Stream) appendData(b []byte) error {
	c := s.c
	c.mu.Lock()
	gone, most := s.gone || s.sendClosed, c.peerPayload
	s.payload = s.payload || !gone
	c.mu.Unlock()
	if gone {
		return relay.ErrWriteZero
	}
	c.explain(len(b))
	for len(b) > frameHeader {
		n := min(len(b)-frameHeader, most)
		putHeader(b, n, http2.FrameData, 0, s.id)
		if err := c.append(b[:frameHeader+n]); err != nil {
			return relay.ErrWriteZero
		}
		b = b[n:]
	}
	return nil
}

// sendData sends what the windows allow of b[9:] in one frame, with END_STREAM
// if end is set and it is all. It returns the number of bytes, 0 if there is no
// window now.
func (s *Stream) sendData(b []byte, end bool) (int, error) {
	c := s.c
	c.lockWrite()
	defer c.unlockWrite()
	var flags http2.Flags
	c.mu.Lock()
	n, err := s.takeWindowLocked(min(len(b)-frameHeader, c.peerPayload))
	s.payload = s.payload || n > 0
	if end && n > 0 && n == len(b)-frameHeader {
		flags = http2.FlagDataEndStream
		c.sentEndLocked(s)
	}
	c.mu.Unlock()
	if err != nil || n == 0 {
		_ = c.finishWrite(true)
		return 0, err
	}
	c.explain(n)
	putHeader(b, n, http2.FrameData, flags, s.id)
	err = c.append(b[:frameHeader+n])
	if err == nil {
		err = c.finishSoon(true)
	}
	if err != nil {
		return 0, relay.ErrWriteZero
	}
	return n, nil
}
