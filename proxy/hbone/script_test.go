package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// script is the peer of a tunnel under test, frame by frame. Its write… methods
// send, its want… methods receive the next frame, and both fail the test.
type script struct {
	t    testing.TB
	conn net.Conn // of TLS
	fr   *http2.Framer
	enc  *hpack.Encoder
	buf  bytes.Buffer
	dec  *hpack.Decoder

	ended bool // the last DATA that was read had END_STREAM
}

// tcp is the connection below TLS.
func (p *script) tcp() *net.TCPConn { return p.conn.(*tls.Conn).NetConn().(*net.TCPConn) }

func newScript(t testing.TB, conn net.Conn) *script {
	p := &script{t: t, conn: conn, fr: http2.NewFramer(conn, conn), dec: hpack.NewDecoder(4096, nil)}
	p.fr.SetMaxReadFrameSize(1<<24 - 1)
	p.fr.AllowIllegalWrites, p.fr.AllowIllegalReads = true, true
	p.enc = hpack.NewEncoder(&p.buf)
	return p
}

// scriptServer returns our client and the server that it talks to.
func scriptServer(t testing.TB, a, b net.Conn, cfg *Config) (*ClientConn, *script) {
	t.Helper()
	peer := make(chan *script, 1)
	go func() {
		tc := tls.Server(b, serverTLS())
		if err := tc.Handshake(); err != nil {
			t.Errorf("handshake of the scripted server: %v", err)
		}
		peer <- newScript(t, tc)
	}()
	cc, err := Client(t.Context(), a, clientTLS(), cfg)
	if err != nil {
		t.Fatalf("Client() = %v", err)
	}
	p := <-peer
	t.Cleanup(func() { p.conn.Close(); <-cc.Done() })
	return cc, p
}

// scriptClient returns our server, serving, and the client that talks to it.
func scriptClient(t testing.TB, a, b net.Conn, cfg *Config, handle func(context.Context, *Stream)) (*ServerConn, *script, <-chan error) {
	t.Helper()
	server := make(chan *ServerConn, 1)
	served := make(chan error, 1)
	go func() {
		sc, err := Server(context.Background(), b, serverTLS(), cfg)
		if err != nil {
			t.Errorf("Server() = %v", err)
			close(server)
			return
		}
		server <- sc
		served <- sc.Serve(context.Background(), handle)
		close(served)
	}()
	tc := tls.Client(a, clientTLS())
	if err := tc.Handshake(); err != nil {
		t.Fatalf("handshake of the scripted client: %v", err)
	}
	p := newScript(t, tc)
	t.Cleanup(func() {
		p.conn.Close()
		for range served {
		}
	})
	return <-server, p, served
}

// greetServer does the server's part of the opening.
func (p *script) greetServer(settings ...http2.Setting) {
	p.t.Helper()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(p.conn, preface); err != nil || string(preface) != http2.ClientPreface {
		p.t.Fatalf("preface = %q, %v", preface, err)
	}
	p.greet(settings)
}

// greetClient does the client's part.
func (p *script) greetClient(settings ...http2.Setting) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, http2.ClientPreface); err != nil {
		p.t.Fatal(err)
	}
	p.greet(settings)
}

func (p *script) greet(settings []http2.Setting) {
	p.t.Helper()
	p.must(p.fr.WriteSettings(settings...))
	p.must(p.fr.WriteSettingsAck())
	p.wantType(http2.FrameSettings)
	p.wantType(http2.FrameWindowUpdate)
	p.wantType(http2.FrameSettings) // the ack
}

func (p *script) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// read returns the next frame.
func (p *script) read() http2.Frame {
	p.t.Helper()
	f, err := p.fr.ReadFrame()
	if err != nil {
		p.t.Fatalf("reading a frame: %v", err)
	}
	return f
}

// wantType reads a frame of a kind. Window updates may come at any time.
func (p *script) wantType(kind http2.FrameType) http2.Frame {
	p.t.Helper()
	f := p.read()
	for kind != http2.FrameWindowUpdate && f.Header().Type == http2.FrameWindowUpdate {
		f = p.read()
	}
	if f.Header().Type != kind {
		p.t.Fatalf("got %v, want %v", f, kind)
	}
	return f
}

// wantHeaders returns the fields of the next frame, which must be HEADERS.
func (p *script) wantHeaders() (id uint32, fields []hpack.HeaderField, end bool) {
	p.t.Helper()
	f := p.wantType(http2.FrameHeaders).(*http2.HeadersFrame)
	block := bytes.Clone(f.HeaderBlockFragment())
	for ended := f.HeadersEnded(); !ended; {
		c := p.wantType(http2.FrameContinuation).(*http2.ContinuationFrame)
		block = append(block, c.HeaderBlockFragment()...)
		ended = c.HeadersEnded()
	}
	fields, err := p.dec.DecodeFull(block)
	if err != nil {
		p.t.Fatalf("decoding a header block: %v", err)
	}
	return f.StreamID, fields, f.StreamEnded()
}

func (p *script) wantStatus(id uint32, status string) {
	p.t.Helper()
	got, fields, _ := p.wantHeaders()
	if got != id || len(fields) == 0 || fields[0].Name != ":status" || fields[0].Value != status {
		p.t.Fatalf("got HEADERS on %d with %v, want status %s on %d", got, fields, status, id)
	}
}

func (p *script) wantReset(id uint32, code http2.ErrCode) {
	p.t.Helper()
	f := p.wantType(http2.FrameRSTStream).(*http2.RSTStreamFrame)
	if f.StreamID != id || f.ErrCode != code {
		p.t.Fatalf("got %v, want a reset of %d with %v", f, id, code)
	}
}

func (p *script) wantGoAway(last uint32, code http2.ErrCode) {
	p.t.Helper()
	f := p.wantType(http2.FrameGoAway).(*http2.GoAwayFrame)
	if f.LastStreamID != last || f.ErrCode != code {
		p.t.Fatalf("got %v last %d code %v, want last %d code %v", f, f.LastStreamID, f.ErrCode, last, code)
	}
}

// goAway reads on until a GOAWAY and returns its code, or the error that came
// instead.
func (p *script) goAway() (http2.ErrCode, error) {
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			return 0, err
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			return g.ErrCode, nil
		}
	}
}

// wantData reads DATA of a stream until it has so many bytes and returns them.
func (p *script) wantData(id uint32, n int) []byte {
	p.t.Helper()
	var all []byte
	for len(all) < n {
		f := p.wantType(http2.FrameData).(*http2.DataFrame)
		if f.StreamID != id {
			p.t.Fatalf("got DATA on %d, want it on %d", f.StreamID, id)
		}
		all = append(all, f.Data()...)
		p.ended = f.StreamEnded()
	}
	return all
}

// wantEnd expects END_STREAM without more data.
func (p *script) wantEnd(id uint32) {
	p.t.Helper()
	f := p.wantType(http2.FrameData).(*http2.DataFrame)
	if f.StreamID != id || !f.StreamEnded() || len(f.Data()) > 0 {
		p.t.Fatalf("got %v, want the end of stream %d", f, id)
	}
}

// wantClosed expects the end of the connection.
func (p *script) wantClosed() {
	p.t.Helper()
	if f, err := p.fr.ReadFrame(); !errors.Is(err, io.EOF) {
		p.t.Fatalf("got %v, %v, want the end of the connection", f, err)
	}
}

// wantAlive expects the answer to a PING as the next frame.
func (p *script) wantAlive() {
	p.t.Helper()
	p.must(p.fr.WritePing(false, [8]byte{9}))
	f := p.read()
	for f.Header().Type == http2.FrameWindowUpdate {
		f = p.read()
	}
	if ping, ok := f.(*http2.PingFrame); !ok || !ping.IsAck() || ping.Data != [8]byte{9} {
		p.t.Fatalf("got %v, want the answer to a PING", f)
	}
}

// block encodes fields, name by value.
func (p *script) block(fields ...string) []byte {
	p.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		p.must(p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return bytes.Clone(p.buf.Bytes())
}

func (p *script) writeHeaders(id uint32, end bool, fields ...string) {
	p.t.Helper()
	p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(fields...), EndHeaders: true, EndStream: end}))
}

// writeConnect opens a stream as a client.
func (p *script) writeConnect(id uint32) {
	p.t.Helper()
	p.writeHeaders(id, false, ":method", "CONNECT", ":authority", "10.0.0.1:80")
}

func (p *script) writeData(id uint32, end bool, data string) {
	p.t.Helper()
	p.must(p.fr.WriteData(id, end, []byte(data)))
}

// opening is a request under way.
type opening struct {
	s   *Stream
	err error
}

// open sends a request of our client and answers it with what respond does.
func (p *script) open(cc *ClientConn, respond func(id uint32)) opening {
	p.t.Helper()
	result := make(chan opening, 1)
	go func() {
		s, err := cc.Open(context.Background(), &Request{Authority: "10.0.0.1:80"})
		result <- opening{s, err}
	}()
	id, _, _ := p.wantHeaders()
	respond(id)
	return <-result
}

// accepted opens a stream and accepts it.
func (p *script) accepted(cc *ClientConn) *Stream {
	p.t.Helper()
	o := p.open(cc, func(id uint32) { p.writeHeaders(id, false, ":status", "200") })
	if o.err != nil {
		p.t.Fatalf("Open() = %v", o.err)
	}
	return o.s
}

// errorText is the text of an error, "" for none.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprint(err)
}
