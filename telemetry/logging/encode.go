package logging

import (
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxString bounds what one message or value adds to a line, in bytes.
const maxString = 64 << 10

// Fields is a value that writes several fields itself, without making an
// attribute of each. The key of its attribute is not used. It is for lines with
// many fields on hot paths, such as the access log: one attribute that holds a
// pointer allocates nothing. If it is a [slog.LogValuer] too, handlers of other
// packages show the same fields.
type Fields interface {
	LogFields(e *Encoder)
}

// Encoder writes fields to one line, in text or JSON. It is valid only during
// the call that it is passed to.
type Encoder struct {
	buf    []byte
	prefix string // of keys, from groups: "a.b."
	json   bool
	fields bool // there is a field before the next one
	span   bool // the fields are those of a span: strings are bare when they can be
}

// String writes a field with a string, quoted.
func (e *Encoder) String(key, value string) {
	e.key(key)
	e.stringValue(value)
}

// Bare writes a field whose value text lines show without quotes; JSON lines
// show a string. The value must not contain spaces or quotes.
func (e *Encoder) Bare(key, value string) {
	e.key(key)
	e.bareValue(value)
}

// AddrPort writes a field with an address and port.
func (e *Encoder) AddrPort(key string, value netip.AddrPort) {
	e.key(key)
	e.openBare()
	e.buf = value.AppendTo(e.buf)
	e.closeBare()
}

// Uint writes a field with a number.
func (e *Encoder) Uint(key string, value uint64) {
	e.key(key)
	e.buf = strconv.AppendUint(e.buf, value, 10)
}

// Int writes a field with a number.
func (e *Encoder) Int(key string, value int64) {
	e.key(key)
	e.buf = strconv.AppendInt(e.buf, value, 10)
}

// Millis writes a field with a duration as the access log has it: a string of
// whole milliseconds, cut off, such as "13ms".
func (e *Encoder) Millis(key string, value time.Duration) {
	e.key(key)
	e.buf = append(e.buf, '"')
	e.buf = appendMillis(e.buf, value)
	e.buf = append(e.buf, '"')
}

// Millis is the text that [Encoder.Millis] writes.
func Millis(value time.Duration) string {
	var buf [24]byte
	return string(appendMillis(buf[:0], value))
}

func appendMillis(b []byte, value time.Duration) []byte {
	return append(strconv.AppendInt(b, value.Milliseconds(), 10), "ms"...)
}

// key writes what stands before a value.
func (e *Encoder) key(key string) {
	if e.json {
		if e.fields || !e.span {
			e.buf = append(e.buf, ',')
		}
		e.fields = true
		e.buf = append(e.buf, '"')
		e.buf = appendJSON(e.buf, e.prefix)
		e.buf = appendJSON(e.buf, key)
		e.buf = append(e.buf, `":`...)
		return
	}
	if e.fields {
		e.buf = append(e.buf, ' ')
	}
	e.fields = true
	e.buf = append(e.buf, e.prefix...)
	e.buf = append(e.buf, key...)
	e.buf = append(e.buf, '=')
}

func (e *Encoder) stringValue(value string) {
	if e.span && !e.json && isPlain(value) {
		e.buf = append(e.buf, value...)
		return
	}
	value, cut := cutString(value)
	e.buf = append(e.buf, '"')
	if e.json {
		e.buf = appendJSON(e.buf, value)
	} else {
		e.buf = appendDebug(e.buf, value)
	}
	e.buf = appendCut(e.buf, cut)
	e.buf = append(e.buf, '"')
}

func (e *Encoder) bareValue(value string) {
	if e.json || !isBare(value) {
		e.stringValue(value)
		return
	}
	e.buf = append(e.buf, value...)
}

// openBare and closeBare stand around a value that needs no escapes.
func (e *Encoder) openBare() {
	if e.json {
		e.buf = append(e.buf, '"')
	}
}

func (e *Encoder) closeBare() { e.openBare() }

// attr writes an attribute with all that is in it.
func (e *Encoder) attr(a slog.Attr) {
	v := a.Value
	if v.Kind() == slog.KindLogValuer {
		if f, ok := v.Any().(Fields); ok { // what it resolves to is for other handlers
			e.other(a.Key, f)
			return
		}
		v = v.Resolve()
	}
	switch v.Kind() {
	case slog.KindString:
		e.String(a.Key, v.String())
	case slog.KindInt64:
		e.Int(a.Key, v.Int64())
	case slog.KindUint64:
		e.Uint(a.Key, v.Uint64())
	case slog.KindBool:
		e.key(a.Key)
		e.buf = strconv.AppendBool(e.buf, v.Bool())
	case slog.KindFloat64:
		e.float(a.Key, v.Float64())
	case slog.KindDuration:
		e.Bare(a.Key, v.Duration().String())
	case slog.KindTime:
		e.key(a.Key)
		e.openBare()
		e.buf = appendTime(e.buf, v.Time())
		e.closeBare()
	case slog.KindGroup:
		e.group(a.Key, v.Group())
	default:
		e.any(a.Key, v.Any())
	}
}

// group writes the attributes of a group with its name before their keys.
func (e *Encoder) group(name string, attrs []slog.Attr) {
	outer := e.prefix
	if name != "" {
		e.prefix += name + "."
	}
	for _, a := range attrs {
		e.attr(a)
	}
	e.prefix = outer
}

func (e *Encoder) float(key string, value float64) {
	e.key(key)
	start := len(e.buf)
	e.buf = strconv.AppendFloat(e.buf, value, 'g', -1, 64)
	if c := e.buf[len(e.buf)-1]; e.json && (c < '0' || c > '9') { // NaN and Inf are no JSON
		text := string(e.buf[start:])
		e.buf = e.buf[:start]
		e.stringValue(text)
	}
}

// any writes a value that is neither a number nor a string.
func (e *Encoder) any(key string, value any) {
	switch v := value.(type) {
	case nil:
		if key == "" { // an empty attribute, which slog says to ignore
			return
		}
		e.key(key)
		e.buf = append(e.buf, "null"...)
	case *netip.AddrPort:
		e.AddrPort(key, *v)
	case netip.AddrPort:
		e.AddrPort(key, v)
	case netip.Addr:
		e.Bare(key, v.String())
	case netip.Prefix:
		e.Bare(key, v.String())
	default:
		e.other(key, value)
	}
}

// isPlain tells whether a string needs no quotes in the fields of a span, which
// end with a brace.
func isPlain(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '{' || c == '}' {
			return false
		}
	}
	return s != ""
}

// isBare tells whether a string can be shown without quotes and the line still
// be read.
func isBare(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c == 0x7f || c == '"' {
			return false
		}
	}
	return utf8.ValidString(s)
}

// cutString bounds a string; cut is how many bytes are left out.
func cutString(s string) (short string, cut int) {
	if len(s) <= maxString {
		return s, 0
	}
	n := maxString
	for n > maxString-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n], len(s) - n
}

func appendCut(b []byte, cut int) []byte {
	if cut == 0 {
		return b
	}
	b = append(b, "… ("...)
	b = strconv.AppendInt(b, int64(cut), 10)
	return append(b, " bytes more)"...)
}

// appendDebug escapes a string as Rust's Debug format does.
func appendDebug(b []byte, s string) []byte {
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if unicode.IsPrint(r) && (r != utf8.RuneError || size > 1) {
				i += size
				continue
			}
			b = append(b, s[start:i]...)
			b = appendRune(b, r)
			i += size
			start = i
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		case 0:
			b = append(b, `\0`...)
		default:
			b = appendRune(b, rune(c))
		}
		i++
		start = i
	}
	return append(b, s[start:]...)
}

func appendRune(b []byte, r rune) []byte {
	b = append(b, `\u{`...)
	b = strconv.AppendInt(b, int64(r), 16)
	return append(b, '}')
}

const hexDigits = "0123456789abcdef"

// appendJSON escapes a string for JSON, and no more than JSON needs.
func appendJSON(b []byte, s string) []byte {
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(b, s[start:i]...)
				b = append(b, `\ufffd`...)
				start = i + size
			}
			i += size
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(b, s[start:]...)
}

// appendMessage writes a message as it is, with its line breaks if they are
// wanted, but without what would disturb the columns or a terminal.
func appendMessage(b []byte, s string, lines bool) []byte {
	s, cut := cutString(s)
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	start := 0
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < ' ' && (!lines || c != '\n')) || c == 0x7f {
			b = append(b, s[start:i]...)
			b = appendDebug(b, s[i:i+1])
			start = i + 1
		}
	}
	return appendCut(append(b, s[start:]...), cut)
}

// appendTime writes a time in RFC 3339, UTC, with six digits of the second.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	if year < 0 || year > 9999 {
		return t.AppendFormat(b, time.RFC3339Nano)
	}
	b = appendDigits(b, year, 4)
	b = append(b, '-')
	b = appendDigits(b, int(month), 2)
	b = append(b, '-')
	b = appendDigits(b, day, 2)
	b = append(b, 'T')
	b = appendDigits(b, hour, 2)
	b = append(b, ':')
	b = appendDigits(b, minute, 2)
	b = append(b, ':')
	b = appendDigits(b, second, 2)
	b = append(b, '.')
	b = appendDigits(b, t.Nanosecond()/1000, 6)
	return append(b, 'Z')
}

func appendDigits(b []byte, n, digits int) []byte {
	var d [6]byte
	for i := digits - 1; i >= 0; i-- {
		d[i] = byte('0' + n%10)
		n /= 10
	}
	return append(b, d[:digits]...)
}
