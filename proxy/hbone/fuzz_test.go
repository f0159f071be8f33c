package hbone

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// discardIO swallows what is written and has nothing to read.
type discardIO struct{}

func (discardIO) fill(*inbox) error                   { return io.EOF }
func (discardIO) write(p []byte, _ bool) (int, error) { return len(p), nil }

// fuzzConn is a tunnel without a connection: frames are fed to it directly. A
// server's handlers wait for its end if they are held.
func fuzzConn(client, held bool) *conn {
	a, _ := memPair()
	rec := newRecords(a)
	rec.io = discardIO{}
	c := newConn(rec, nil, (&Config{PingInterval: -1}).withDefaults(client), client)
	c.writeErr = ErrTunnelClosing // nothing is encrypted
	if !client {
		sc := &ServerConn{c: c, ctx: context.Background(), handle: func(_ context.Context, s *Stream) {
			if held {
				<-c.done
			}
			s.Accept(nil)
			io.Copy(io.Discard, s)
		}}
		c.server = sc
	} else {
		for range 3 {
			s := newStream(c)
			s.id, s.sendWin = c.nextID, c.initWin
			c.nextID += 2
			c.streams[s.id] = s
		}
	}
	return c
}

// feed gives input to the frame reader in pieces of a size, as records would,
// and checks that the reader's progress does not depend on it.
func feed(c *conn, input []byte, piece int) error {
	buf := make([]byte, 0, len(input))
	for len(input) > 0 {
		n := min(piece, len(input))
		buf = append(buf, input[:n]...)
		input = input[n:]
		k, err := c.frames(buf)
		if k > len(buf) {
			panic("the reader took more than there was")
		}
		buf = buf[k:]
		if err != nil {
			return err
		}
		if len(buf) >= classRead[classWarm] {
			panic("the reader waits for more than a buffer holds")
		}
	}
	return nil
}

func fuzzFrames(f *testing.F, client bool) {
	var frames bytes.Buffer
	fr := http2.NewFramer(&frames, nil)
	fr.AllowIllegalWrites = true
	seed := func(write func()) {
		frames.Reset()
		if !client {
			frames.WriteString(http2.ClientPreface)
		}
		fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		write()
		f.Add(bytes.Clone(frames.Bytes()), byte(255))
	}
	request := appendRequest(nil, &Request{Authority: "10.0.0.1:80", Header: Header{{"baggage", "a=b"}}})
	if client {
		request = appendResponse(nil, 200, Header{{"baggage", "a=b"}})
	}
	headers := func(end bool) {
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request, EndHeaders: true, EndStream: end, PadLength: 3})
	}
	seed(func() { headers(false); fr.WriteDataPadded(1, true, []byte("hello"), make([]byte, 9)) })
	seed(func() {
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request[:3]})
		fr.WriteContinuation(1, true, request[3:])
		fr.WriteRSTStream(1, http2.ErrCodeCancel)
	})
	seed(func() {
		headers(true)
		fr.WritePing(false, [8]byte{})
		fr.WriteWindowUpdate(1, 7)
		fr.WriteGoAway(1, 0, []byte("bye"))
	})
	seed(func() {
		headers(false)
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request, Priority: http2.PriorityParam{StreamDep: 3}, EndHeaders: true})
		fr.WriteRawFrame(0x42, 0xff, 5, make([]byte, 70))
	})
	f.Fuzz(func(t *testing.T, input []byte, piece byte) {
		outcome := func(piece int, held bool) string {
			c := fuzzConn(client, held)
			err := feed(c, input, piece)
			if w := c.recvWin; w > int64(c.cfg.ConnectionWindow) {
				t.Errorf("the tunnel's window grew to %d", w)
			}
			streams := len(c.streams)
			c.end(io.EOF)
			if c.server != nil {
				c.server.handlers.Wait()
			}
			if streams > 200 {
				t.Errorf("%d streams", streams)
			}
			return errorText(err)
		}
		// Handlers that run meanwhile decide when a stream is forgotten, and with
		// that what later frames for it mean: only held ones make runs equal.
		if !client {
			outcome(int(piece)+1, false)
		}
		whole := outcome(len(input)+1, true)
		if got := outcome(int(piece)+1, true); len(input) < classRead[classWarm] && got != whole {
			t.Errorf("in pieces of %d: %q, as a whole: %q", int(piece)+1, got, whole)
		}
	})
}

func FuzzServerFrames(f *testing.F) { fuzzFrames(f, false) }
func FuzzClientFrames(f *testing.F) { fuzzFrames(f, true) }

// The short way to decode a header block gives what the full decoder gives, or
// nothing.
func FuzzDecodeLiterals(f *testing.F) {
	f.Add(appendRequest(nil, &Request{Authority: "10.0.0.1:80", Header: Header{{"baggage", "a=b"}, {"x", string(make([]byte, 300))}}}))
	f.Add(appendResponse(nil, 401, nil))
	f.Add([]byte{status200, 0, 1, 'a', 127, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		got, ok := decodeLiterals(p, nil)
		if !ok {
			return
		}
		want, err := hpack.NewDecoder(4096, nil).DecodeFull(p)
		if err != nil {
			t.Fatalf("decoded %v where the full decoder fails: %v", got, err)
		}
		var fields Header
		for _, w := range want {
			fields = append(fields, Field{w.Name, w.Value})
		}
		if diff := cmp.Diff(fields, got); diff != "" {
			t.Errorf("the decoders differ (-full +short):\n%s", diff)
		}
	})
}
