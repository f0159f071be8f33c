package hbone

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// control handles a short frame that has arrived as a whole. The error codes are
// those of RFC 9113; the reference has PROTOCOL_ERROR for nearly all.
func (c *conn) control(kind http2.FrameType, flags http2.Flags, id uint32, p []byte) error {
	if kind == http2.FrameSettings {
		return c.settings(flags, id, p)
	}
	if !c.gotFirst.Load() {
		return errFirstFrame
	}
	switch kind {
	case http2.FramePing:
		return c.ping(flags, id, p)
	case http2.FrameRSTStream:
		return c.resetReceived(id, p)
	case http2.FrameWindowUpdate:
		return c.windowUpdate(id, p)
	case http2.FramePriority:
		return c.priority(id, p)
	}
	return nil
}

func (c *conn) settings(flags http2.Flags, id uint32, p []byte) error {
	ack := flags&http2.FlagSettingsAck != 0
	switch {
	case id != 0:
		return connError(http2.ErrCodeProtocol)
	case len(p)%6 != 0 || ack && len(p) > 0:
		return connError(http2.ErrCodeFrameSize)
	case ack && !c.gotFirst.Load():
		return errFirstFrame
	}
	if ack {
		if c.acks--; c.acks < 0 {
			return connError(http2.ErrCodeProtocol)
		}
		return nil
	}
	if !c.gotFirst.Load() {
		c.firstSettings()
	} else if err := c.countControl(); err != nil {
		return err
	}
	window := int64(-1)
	for ; len(p) > 0; p = p[6:] {
		id, v := http2.SettingID(binary.BigEndian.Uint16(p)), binary.BigEndian.Uint32(p[2:])
		if err := c.setting(id, v); err != nil {
			return err
		}
		if id == http2.SettingInitialWindowSize {
			window = int64(v)
		}
	}
	if window >= 0 { // the last one: between two of a frame nothing may be sent
		if err := c.setInitialWindow(window); err != nil {
			return err
		}
	}
	c.putControl(appendSettingsAck)
	return nil
}

// firstSettings ends the time of assumptions.
func (c *conn) firstSettings() {
	c.gotFirst.Store(true)
	c.timers.stopHandshake()
	if c.client {
		c.mu.Lock()
		c.peerTold, c.peerMax = true, c.cfg.AssumedStreams // stands unless the SETTINGS say otherwise
		c.mu.Unlock()
	}
}

// setting checks a setting and applies it, but for the window.
func (c *conn) setting(id http2.SettingID, v uint32) error {
	switch id {
	case http2.SettingEnablePush:
		if v > 1 || c.client && v == 1 {
			return connError(http2.ErrCodeProtocol)
		}
	case http2.SettingInitialWindowSize:
		if v > maxWindow {
			return connError(http2.ErrCodeFlowControl)
		}
	case http2.SettingMaxFrameSize:
		if v < minMaxFrame || v > maxMaxFrame {
			return connError(http2.ErrCodeProtocol)
		}
		c.mu.Lock()
		c.peerPayload = payloadFor(v)
		c.mu.Unlock()
	case http2.SettingMaxConcurrentStreams:
		c.mu.Lock()
		c.peerMax = v
		c.mu.Unlock()
	}
	return nil
}

func (c *conn) ping(flags http2.Flags, id uint32, p []byte) error {
	if id != 0 {
		return connError(http2.ErrCodeProtocol)
	}
	if len(p) != 8 {
		return connError(http2.ErrCodeFrameSize)
	}
	if flags&http2.FlagPingAck == 0 {
		if err := c.countControl(); err != nil {
			return err
		}
		c.putControl(func(b []byte) []byte { return appendPing(b, true, p) })
		return nil
	}
	switch [8]byte(p) {
	case keepalivePing:
		if c.timers.pingAcked(c) {
			return nil
		}
	case drainPing:
		if c.server != nil && c.server.drainAcked() {
			return nil
		}
	}
	return c.countControl() // nobody asked
}

func (c *conn) windowUpdate(id uint32, p []byte) error {
	if len(p) != 4 {
		return connError(http2.ErrCodeFrameSize)
	}
	if id != 0 && c.isIdle(id) {
		return connError(http2.ErrCodeProtocol)
	}
	if err := c.countControl(); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(p) & maxWindow
	if n == 0 {
		if id == 0 {
			return connError(http2.ErrCodeProtocol)
		}
		return c.streamError(id, http2.ErrCodeProtocol)
	}
	return c.growWindow(id, int64(n))
}

func (c *conn) priority(id uint32, p []byte) error {
	if id == 0 {
		return connError(http2.ErrCodeProtocol)
	}
	if err := c.countControl(); err != nil {
		return err
	}
	code := http2.ErrCodeNo
	if len(p) != 5 {
		code = http2.ErrCodeFrameSize
	} else if binary.BigEndian.Uint32(p)&maxStreamID == id {
		code = http2.ErrCodeProtocol
	}
	if code == http2.ErrCodeNo {
		return nil
	}
	if c.isIdle(id) { // such a stream cannot be reset
		return connError(code)
	}
	return c.streamError(id, code)
}

// resetReceived ends a stream for the peer.
func (c *conn) resetReceived(id uint32, p []byte) error {
	if len(p) != 4 {
		return connError(http2.ErrCodeFrameSize)
	}
	if id == 0 || c.isIdle(id) {
		return connError(http2.ErrCodeProtocol)
	}
	f := &frameError{code: http2.ErrCode(binary.BigEndian.Uint32(p)), received: true}
	end := endOf(f)
	c.mu.Lock()
	s := c.streams[id]
	wasted := false
	if s != nil {
		wasted = !s.payload
		// The peer's limit or drain, if others were open; else its answer.
		end.unprocessed = f.code == http2.ErrCodeRefusedStream && c.client && !s.answered && len(c.streams) > 1
		c.removeLocked(s, end)
	} else {
		c.closed.peerEnded(id)
	}
	c.mu.Unlock()
	if s == nil {
		return c.countControl()
	}
	s.finish(end.read)
	c.finishIfIdle()
	if c.client || !wasted {
		return nil
	}
	return c.wasted(s)
}

// goAway handles the first bytes of a GOAWAY.
func (c *conn) goAway(id uint32, p []byte) error {
	if id != 0 {
		return connError(http2.ErrCodeProtocol)
	}
	if len(p) < 8 {
		return connError(http2.ErrCodeFrameSize)
	}
	last := binary.BigEndian.Uint32(p) & maxStreamID
	f := &frameError{code: http2.ErrCode(binary.BigEndian.Uint32(p[4:])), connection: true, received: true}
	f.debug = string(p[8:min(len(p), 8+64)])
	c.mu.Lock()
	again := c.peerGoAway
	c.peerGoAway = true
	if f.code != http2.ErrCodeNo {
		c.peerErr = f
	}
	var lost []*Stream
	end := endOf(f)
	if c.client {
		// A peer that disowns what it has answered, or that answers its first
		// request like this, is not believed.
		end.unprocessed = c.answered > 0 && last >= c.answered
		for sid, s := range c.streams {
			if sid > last && !s.answered {
				c.removeLocked(s, end)
				c.closed.giveUp(sid)
				lost = append(lost, s)
			}
		}
	}
	c.mu.Unlock()
	for _, s := range lost {
		s.finish(end.read)
	}
	c.finishIfIdle()
	if again {
		return c.countControl()
	}
	return nil
}
