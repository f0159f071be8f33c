package hbone

import (
	"slices"

	"golang.org/x/net/http2"
)

// closedStreams knows of streams that have ended what tells a frame that was
// under way from one that must not come (RFC 9113 §5.1 and §5.1.1). It is guarded
// by conn.mu and costs nothing while no stream is reset.
type closedStreams struct {
	// late are streams that we gave up while the peer could still send, the
	// oldest first. What it sent before it knew is ignored.
	late []uint32
	// forgotten is the highest stream that there was no more room for in late.
	// Streams up to it get the benefit of the doubt.
	forgotten uint32
	// skipped are the last numbers that a client passed over.
	skipped []idRange
}

// idRange are the numbers from first to last.
type idRange struct{ first, last uint32 }

const (
	// maxLate is more than the streams that are open at once by default: all may
	// be given up together.
	maxLate    = 256
	maxSkipped = 8
)

// giveUp notes that we end a stream while the peer may still send on it.
func (l *closedStreams) giveUp(id uint32) {
	if slices.Contains(l.late, id) {
		return
	}
	if len(l.late) == maxLate {
		const most = maxLate / 4
		l.forgotten = max(l.forgotten, slices.Max(l.late[:most]))
		l.late = slices.Delete(l.late, 0, most)
	}
	l.late = append(l.late, id)
}

// peerEnded notes that the peer says nothing more on a stream.
func (l *closedStreams) peerEnded(id uint32) {
	if i := slices.Index(l.late, id); i >= 0 {
		l.late = slices.Delete(l.late, i, i+1)
	}
}

// skip notes the numbers between two streams that a client has opened.
func (l *closedStreams) skip(last, next uint32) {
	if next <= last+2 {
		return
	}
	if len(l.skipped) == maxSkipped {
		l.skipped = slices.Delete(l.skipped, 0, 1)
	}
	l.skipped = append(l.skipped, idRange{last + 1, next - 1})
}

// mayCome reports whether a frame of the peer for a closed stream may have been
// under way when the stream ended.
func (l *closedStreams) mayCome(id uint32) bool {
	return id <= l.forgotten || slices.Contains(l.late, id)
}

// closedHeaders handles a header block, decoded already, for a stream that has
// ended or that was never opened and cannot be any more.
func (c *conn) closedHeaders(id uint32, end bool) error {
	c.mu.Lock()
	skipped := slices.ContainsFunc(c.closed.skipped, func(r idRange) bool { return r.first <= id && id <= r.last })
	late := c.closed.mayCome(id)
	if end {
		c.closed.peerEnded(id)
	}
	c.mu.Unlock()
	switch {
	case skipped:
		return connError(http2.ErrCodeProtocol)
	case late:
		return c.countControl()
	}
	return connError(http2.ErrCodeStreamClosed)
}
