package hbone

import (
	"errors"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Static table entries of RFC 7541 that every request and response uses.
const (
	hpackAuthority = 1
	hpackMethod    = 2
	hpackStatus    = 8
	status200      = 0x88 // the whole block of a plain acceptance
)

// appendRequest appends the header block of a CONNECT. Nothing is indexed, so
// encoders have no state.
func appendRequest(b []byte, r *Request) []byte {
	method := r.Method
	if method == "" {
		method = "CONNECT"
	}
	b = appendString(append(b, hpackMethod), method)
	b = appendString(append(b, hpackAuthority), r.Authority)
	return appendFields(b, r.Header)
}

// appendResponse appends the header block of a response.
func appendResponse(b []byte, status int, h Header) []byte {
	if status == 200 {
		b = append(b, status200)
	} else {
		b = append(b, hpackStatus, 3, byte('0'+status/100%10), byte('0'+status/10%10), byte('0'+status%10))
	}
	return appendFields(b, h)
}

func appendFields(b []byte, h Header) []byte {
	for i := range h {
		b = appendString(append(b, 0), h[i].Name)
		b = appendString(b, h[i].Value)
	}
	return b
}

// appendString appends a string literal without Huffman coding.
func appendString(b []byte, s string) []byte {
	n := len(s)
	if n < 127 {
		b = append(b, byte(n))
	} else {
		b = append(b, 127)
		for n -= 127; n >= 128; n >>= 7 {
			b = append(b, byte(n)|128)
		}
		b = append(b, byte(n))
	}
	return append(b, s...)
}

// appendBlock appends the header block in b[9:] as HEADERS and, if it is long,
// CONTINUATION frames. The caller holds wmu.
func (c *conn) appendBlock(b []byte, id uint32, end bool) error {
	const most = minMaxFrame
	kind, flags := http2.FrameHeaders, http2.Flags(0)
	if end {
		flags = http2.FlagHeadersEndStream
	}
	for {
		n := min(len(b)-frameHeader, most)
		if n == len(b)-frameHeader {
			flags |= http2.FlagHeadersEndHeaders
		}
		putHeader(b, n, kind, flags, id)
		if err := c.append(b[:frameHeader+n]); err != nil || n == len(b)-frameHeader {
			return err
		}
		b = b[n:]
		kind, flags = http2.FrameContinuation, 0
	}
}

// block is a decoded header block.
type block struct {
	Request                      // of a response: its fields only
	status                       string
	hasMethod, hasAuthority      bool
	scheme, path, protocol       bool
	size                         uint32
	malformed                    bool // ends the stream
	pseudo                       bool // a field with colon was seen
	regular                      bool // one without
	tooLong, wantRequest, signed bool
}

func (c *conn) initDecoder() {
	c.hdec = hpack.NewDecoder(4096, nil)
	c.hdec.SetMaxStringLength(int(c.cfg.Limits.HeaderList))
}

// decode decodes a whole header block. The error ends the tunnel.
func (c *conn) decode(p []byte) (*block, error) {
	b := &block{wantRequest: !c.client}
	limit := c.cfg.Limits.HeaderList
	if fields, ok := decodeLiterals(p, b.Header); ok {
		for _, f := range fields {
			b.add(f.Name, f.Value, limit)
		}
	} else {
		c.hdec.SetEmitFunc(func(f hpack.HeaderField) {
			b.add(f.Name, f.Value, limit)
			if b.tooLong {
				c.hdec.SetEmitEnabled(false)
			}
		})
		c.hdec.SetEmitEnabled(true)
		if _, err := c.hdec.Write(p); err != nil && !b.tooLong {
			if errors.Is(err, hpack.ErrStringLength) {
				b.tooLong = true
			} else {
				return nil, connError(http2.ErrCodeCompression)
			}
		}
		if err := c.hdec.Close(); err != nil && !b.tooLong {
			return nil, connError(http2.ErrCodeCompression)
		}
	}
	if b.tooLong {
		c.cfg.Metrics.HeaderFloods.Add(1)
		return nil, connError(http2.ErrCodeEnhanceYourCalm)
	}
	b.malformed = b.malformed || c.frame.onItself
	return b, nil
}

// decodeLiterals decodes a block that needs no table but the static one and no
// Huffman code, like ours, with one allocation for all strings.
func decodeLiterals(p []byte, fields Header) (Header, bool) {
	text := ""
	for i := 0; i < len(p); {
		op := p[i]
		i++
		var name string
		var ok bool
		switch op {
		case status200:
			fields = append(fields, Field{":status", "200"})
			continue
		case hpackMethod:
			name = ":method"
		case hpackAuthority:
			name = ":authority"
		case hpackStatus:
			name = ":status"
		case 0:
			if text == "" {
				text = string(p)
			}
			if name, i, ok = literal(text, i); !ok {
				return nil, false
			}
		default:
			return nil, false
		}
		if text == "" {
			text = string(p)
		}
		var value string
		if value, i, ok = literal(text, i); !ok {
			return nil, false
		}
		if fields == nil {
			fields = make(Header, 0, 6)
		}
		fields = append(fields, Field{name, value})
	}
	return fields, true
}

// literal reads a plain string of at most 16 KiB at text[i:].
func literal(text string, i int) (string, int, bool) {
	if i >= len(text) || text[i] >= 128 {
		return "", 0, false
	}
	n := int(text[i])
	i++
	if n == 127 {
		for shift := 0; ; shift += 7 {
			if i >= len(text) || shift > 7 {
				return "", 0, false
			}
			c := text[i]
			i++
			n += int(c&127) << shift
			if c < 128 {
				break
			}
		}
	}
	if n > len(text)-i {
		return "", 0, false
	}
	return text[i : i+n], i + n, true
}

// add checks one field by RFC 9113 §8 and keeps it.
func (b *block) add(name, value string, limit uint32) {
	b.size += uint32(len(name)) + uint32(len(value)) + 32
	if b.size > limit {
		b.tooLong = true
	}
	if b.tooLong {
		return
	}
	if !validValue(value) || !validName(name) {
		b.malformed = true
		return
	}
	if name[0] == ':' {
		b.addPseudo(name, value)
		return
	}
	b.regular = true
	switch name {
	case "connection", "transfer-encoding", "keep-alive", "proxy-connection", "upgrade":
		b.malformed = true
	case "te":
		b.malformed = b.malformed || value != "trailers"
	case "content-length":
		b.malformed = b.malformed || !digits(value)
	}
	if b.Header == nil {
		b.Header = make(Header, 0, 4)
	}
	b.Header = append(b.Header, Field{name, value})
}

func (b *block) addPseudo(name, value string) {
	b.pseudo = true
	if b.regular {
		b.malformed = true
	}
	once := func(seen *bool) {
		b.malformed = b.malformed || *seen
		*seen = true
	}
	switch name {
	case ":method":
		once(&b.hasMethod)
		b.Method = value
		b.malformed = b.malformed || !b.wantRequest || !token(value)
	case ":authority":
		once(&b.hasAuthority)
		b.Authority = value
		b.malformed = b.malformed || !b.wantRequest || !validAuthority(value)
	case ":scheme":
		once(&b.scheme)
		b.malformed = b.malformed || !b.wantRequest
	case ":path":
		once(&b.path)
		b.malformed = b.malformed || !b.wantRequest || value == ""
	case ":protocol":
		once(&b.protocol)
		b.malformed = true
	case ":status":
		once(&b.signed)
		b.status = value
		b.malformed = b.malformed || b.wantRequest
	default:
		b.malformed = true
	}
}

// trailers reports whether the block may come last on a stream.
func (b *block) trailers() bool { return !b.malformed && !b.pseudo }

// badRequest reports whether a request must be answered by a reset.
func (b *block) badRequest() bool {
	switch {
	case b.malformed || !b.hasMethod:
		return true
	case b.Method == "CONNECT":
		return b.scheme || b.path
	}
	return !b.scheme || !b.path
}

// statusCode returns the status of a response, 0 if it has none that is valid.
func (b *block) statusCode() int {
	if b.malformed || len(b.status) != 3 || !digits(b.status) || b.status[0] == '0' {
		return 0
	}
	return int(b.status[0]-'0')*100 + int(b.status[1]-'0')*10 + int(b.status[2]-'0')
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// token reports whether s is a token of RFC 9110 §5.6.2.
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 127 || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// validName reports whether s is the name of a field in lower case, or of a
// pseudo-field.
func validName(s string) bool {
	rest := strings.TrimPrefix(s, ":")
	for i := range len(rest) {
		if c := rest[i]; c >= 'A' && c <= 'Z' {
			return false
		}
	}
	return token(rest)
}

// validValue reports whether s has none of the bytes that would end a field in
// other versions of HTTP.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 127 {
			return false
		}
	}
	return true
}

// validAuthority reports whether the authority has only bytes that one can have.
// What it means is for others to decide.
func validAuthority(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 127 || strings.IndexByte("/?#\\\"<>^`{|}", c) >= 0 {
			return false
		}
	}
	return s != ""
}
