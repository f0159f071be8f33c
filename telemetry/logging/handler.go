package logging

import (
	"context"
	"encoding"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Bare is implemented by values that text lines show without quotes, such as
// the authority of a CONNECT request. JSON lines show them as strings.
type Bare interface {
	LogBare() string
}

// handler is the slog.Handler of one scope. It is immutable.
type handler struct {
	log   *Logging
	scope *scope
	spans []byte // formatted: ":name{k=v}" in text, `,"name":{"k":"v"}` in JSON
	attrs []byte // formatted fields of WithAttrs
	group string // before the keys of the next attributes: "a.b."
	lines bool   // messages may have line breaks
}

// maxPooled is the size of the largest buffer that is kept for other lines.
const maxPooled = 16 << 10

var encoders = sync.Pool{New: func() any { return &Encoder{buf: make([]byte, 0, 1<<10)} }}

// Enabled implements slog.Handler: one atomic load.
func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return int64(level) >= h.scope.level.Load()
}

// Handle implements slog.Handler. It never fails; lost lines are counted.
func (h *handler) Handle(_ context.Context, r slog.Record) error {
	level := levelIndex(r.Level)
	e := h.begin(r.Time, level, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		e.attr(a)
		return true
	})
	h.end(e, level, r.Message)
	return nil
}

// begin makes a line up to its fields. It is
//
//	time\tlevel\tscope[:span{k=v …}…]\t[message\t][k=v k="v" …]\n
//
// in text, and {"level":…,"time":…,"scope":…,"message":…,fields…,spans…} in JSON.
func (h *handler) begin(t time.Time, level int, message string) *Encoder {
	e := encoders.Get().(*Encoder)
	e.buf, e.json, e.fields, e.span, e.prefix = e.buf[:0], h.log.json, false, false, h.group
	if e.json {
		h.beginJSON(e, t, level, message)
	} else {
		h.beginText(e, t, level, message)
	}
	if len(h.attrs) > 0 {
		e.buf = append(e.buf, h.attrs...)
		e.fields = true
	}
	return e
}

// end completes the line and queues it. The encoder must not be used any more.
func (h *handler) end(e *Encoder, level int, message string) {
	switch {
	case e.json:
		e.buf = append(e.buf, h.spans...)
		e.buf = append(e.buf, '}')
	case message == "" && !e.fields:
		e.buf = e.buf[:len(e.buf)-1]
	}
	e.buf = append(e.buf, '\n')
	h.log.queue.put(h.scope, level, e.buf)
	if cap(e.buf) <= maxPooled {
		encoders.Put(e)
	}
}

func (h *handler) beginText(e *Encoder, t time.Time, level int, message string) {
	e.buf = appendTime(e.buf, t)
	e.buf = append(e.buf, '\t')
	e.buf = append(e.buf, levelNames[level]...)
	e.buf = append(e.buf, '\t')
	e.buf = append(e.buf, h.scope.name...)
	e.buf = append(e.buf, h.spans...)
	e.buf = append(e.buf, '\t')
	if message != "" {
		e.buf = appendMessage(e.buf, message, h.lines)
		e.buf = append(e.buf, '\t')
	}
}

func (h *handler) beginJSON(e *Encoder, t time.Time, level int, message string) {
	e.buf = append(e.buf, `{"level":"`...)
	e.buf = append(e.buf, levelNames[level]...)
	e.buf = append(e.buf, `","time":"`...)
	e.buf = appendTime(e.buf, t)
	e.buf = append(e.buf, `","scope":"`...)
	e.buf = append(e.buf, h.scope.target...)
	e.buf = append(e.buf, '"')
	if message != "" {
		e.buf = append(e.buf, `,"message":`...)
		e.stringValue(message)
	}
}

// WithAttrs implements slog.Handler; the attributes are formatted once.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	e := &Encoder{json: h.log.json, prefix: h.group, fields: len(h.attrs) > 0}
	e.buf = append(e.buf, h.attrs...)
	for _, a := range attrs {
		e.attr(a)
	}
	h2 := *h
	h2.attrs = e.buf
	return &h2
}

// WithGroup implements slog.Handler. The name stands before the keys, with a
// dot: lines are flat.
func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	h2 := *h
	h2.group += name + "."
	return &h2
}

// Multiline is a logger whose messages keep their line breaks in text, for text of
// our own such as the configuration. In all other messages they are escaped: what
// a peer says in an error must not look like a line of the log.
func Multiline(l *slog.Logger) *slog.Logger {
	h, ok := l.Handler().(*handler)
	if !ok {
		return l
	}
	h2 := *h
	h2.lines = true
	return slog.New(&h2)
}

// WithSpan is a logger whose lines are marked as part of something that is
// going on, such as one connection: the name and the attributes follow the
// scope in text lines, and are an object of their own in JSON lines. Spans can
// be nested. A logger of another package gets a group instead.
func WithSpan(l *slog.Logger, name string, attrs ...slog.Attr) *slog.Logger {
	h, ok := l.Handler().(*handler)
	if !ok {
		return slog.New(l.Handler().WithAttrs([]slog.Attr{{Key: name, Value: slog.GroupValue(attrs...)}}))
	}
	e := &Encoder{json: h.log.json, span: true}
	e.buf = append(e.buf, h.spans...)
	if e.json {
		e.buf = append(e.buf, `,"`...)
		e.buf = appendJSON(e.buf, name)
		e.buf = append(e.buf, `":{`...)
	} else {
		e.buf = append(append(e.buf, ':'), name...)
		if len(attrs) > 0 {
			e.buf = append(e.buf, '{')
		}
	}
	for _, a := range attrs {
		e.attr(a)
	}
	if e.json || len(attrs) > 0 {
		e.buf = append(e.buf, '}')
	}
	h2 := *h
	h2.spans = e.buf
	return slog.New(&h2)
}

// other writes a value by one of its methods. A method that panics, such as
// that of a nil pointer, does not end the caller.
func (e *Encoder) other(key string, value any) {
	start, fields := len(e.buf), e.fields
	defer func() {
		if p := recover(); p != nil {
			e.buf, e.fields = e.buf[:start], fields
			e.String(key, fmt.Sprintf("!PANIC: %v", p))
		}
	}()
	switch v := value.(type) {
	case Fields:
		v.LogFields(e)
	case Bare:
		e.Bare(key, v.LogBare())
	case error:
		e.String(key, v.Error())
	case fmt.Stringer:
		e.String(key, v.String())
	case encoding.TextMarshaler:
		text, err := v.MarshalText()
		if err != nil {
			text = []byte("!ERROR: " + err.Error())
		}
		e.String(key, string(text))
	case []byte:
		e.String(key, string(v))
	default:
		e.String(key, fmt.Sprint(v))
	}
}

// Emit makes a line of fields that write themselves, at time t, without the cost
// of a record and of looking up the caller, which lines do not show. It is for
// hot paths; the level is checked. Fields reach a handler of another package as
// the attributes of the group that they resolve to.
func Emit(ctx context.Context, l *slog.Logger, t time.Time, level slog.Level, message string, fields Fields) {
	handles := l.Handler()
	if !handles.Enabled(ctx, level) {
		return
	}
	if h, ours := handles.(*handler); ours {
		index := levelIndex(level)
		e := h.begin(t, index, message)
		e.other("", fields)
		h.end(e, index, message)
		return
	}
	r := slog.NewRecord(t, level, message, 0)
	if v := slog.AnyValue(fields).Resolve(); v.Kind() == slog.KindGroup {
		r.AddAttrs(v.Group()...)
	} else {
		r.AddAttrs(slog.Attr{Value: v})
	}
	_ = handles.Handle(ctx, r) // slog's loggers ignore what handlers return, too
}
