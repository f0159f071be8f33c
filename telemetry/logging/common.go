package logging

import "sync/atomic"

// maxCommon is the size in bytes up to which fields are kept as they were written.
const maxCommon = 4 << 10

// Common is how fields that many lines have in common were written last, for
// [Encoder.Common]. The zero value knows nothing yet. It is safe for concurrent
// use, and must not be copied.
type Common struct{ last atomic.Pointer[commonText] }

// commonText is never changed. What fields look like depends on the format, on
// the group of the logger, and on whether there is a field before them.
type commonText struct {
	json, after bool
	prefix      string
	text        []byte
}

// Common writes fields that write the same each time that it is called with c:
// from the second time on by copying what they wrote before.
func (e *Encoder) Common(c *Common, fields Fields) {
	if e.span { // where strings look different
		fields.LogFields(e)
		return
	}
	if t := c.last.Load(); t != nil && t.json == e.json && t.after == e.fields && t.prefix == e.prefix {
		e.buf = append(e.buf, t.text...)
		e.fields = e.fields || len(t.text) > 0
		return
	}
	t, start := &commonText{json: e.json, after: e.fields, prefix: e.prefix}, len(e.buf)
	fields.LogFields(e)
	if n := len(e.buf) - start; n <= maxCommon {
		t.text = append(make([]byte, 0, n), e.buf[start:]...)
		c.last.Store(t)
	}
}
