package hbone

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
)

// A reader with a small buffer gets the rest of a frame by its next reads.
func TestStream_SmallReads(t *testing.T) {
	clientTest(t, nil, func(t *testing.T, cc *ClientConn, p *script) {
		s := p.accepted(cc)
		const text = "one frame that is larger than the buffer"
		p.writeData(1, true, text)
		var got []byte
		for b := make([]byte, 7); ; {
			n, err := s.Read(b)
			got = append(got, b[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("Read() = %v after %q", err, got)
			}
		}
		if string(got) != text {
			t.Errorf("read %q, want %q", got, text)
		}
	})
}

// After the end of its pool a stream still gives what has arrived, and then an
// error.
func TestPoolClose_LeavesWhatHasArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		var serving sync.WaitGroup
		serving.Go(func() {
			sc, err := Server(t.Context(), b, serverTLS(), &Config{})
			if err != nil {
				t.Errorf("Server() = %v", err)
				return
			}
			_ = sc.Serve(t.Context(), func(_ context.Context, s *Stream) {
				if s.Accept(nil) == nil {
					_, _ = io.WriteString(s, "last words")
					_, _ = io.Copy(io.Discard, s)
				}
			})
		})
		pool := NewPool(PoolConfig{Dial: func(ctx context.Context, _ Key) (*ClientConn, error) { return Client(ctx, a, clientTLS(), &Config{}) }})
		s, err := pool.Open(t.Context(), testKey(1), &Request{Authority: "10.0.0.1:80"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // all has arrived
		pool.Close()
		synctest.Wait()
		first := make([]byte, 4)
		if n, err := s.Read(first); err != nil || string(first[:n]) != "last" {
			t.Errorf("Read() = %q, %v, want the begin of what had arrived", first[:n], err)
		}
		rest, err := io.ReadAll(s)
		if string(rest) != " words" || !errors.Is(err, ErrAborted) {
			t.Errorf("the rest is %q, %v, want the other words and ErrAborted", rest, err)
		}
		_ = s.Close()
		serving.Wait()
	})
}
