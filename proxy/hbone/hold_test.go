package hbone

import (
	"errors"
	"math"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// The connection of a client that was cut off for a flood stays open for a time,
// unless the client goes, or we want to end.
func TestHold(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(sc *ServerConn, p *script)
		want time.Duration
	}{
		{"for its time", func(*ServerConn, *script) {}, floodHold},
		{"until the client goes", func(_ *ServerConn, p *script) { _ = p.conn.Close() }, time.Second},
		{"until the drain", func(sc *ServerConn, _ *script) { sc.Drain() }, time.Second},
		{"until the abort", func(sc *ServerConn, _ *script) { sc.Abort(nil) }, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			serverTest(t, nil, echo, func(t *testing.T, sc *ServerConn, p *script, served <-chan error) {
				for range 300 {
					p.must(p.fr.WritePing(false, [8]byte{}))
				}
				if code, err := p.goAway(); err != nil || code != http2.ErrCodeEnhanceYourCalm {
					t.Fatalf("GOAWAY %v, %v, want ENHANCE_YOUR_CALM", code, err)
				}
				start := time.Now()
				time.Sleep(time.Second)
				synctest.Wait()
				tc.end(sc, p)
				if err := <-served; !Flood(err) || time.Since(start) != tc.want {
					t.Errorf("Serve() = %v after %v, want the flood after %v", err, time.Since(start), tc.want)
				}
			})
		})
	}
}

// What a client sends that was cut off is not read, and its end is seen
// nevertheless.
func TestHold_ReadsNothing(t *testing.T) {
	a, b := tcpPair(t)
	_, p, served := scriptClient(t, a, b, nil, echo)
	p.greetClient()
	for range 300 {
		p.must(p.fr.WritePing(false, [8]byte{}))
	}
	if code, err := p.goAway(); err != nil || code != http2.ErrCodeEnhanceYourCalm {
		t.Fatalf("GOAWAY %v, %v, want ENHANCE_YOUR_CALM", code, err)
	}
	const little = 1 << 20 // once the kernel's buffers are full
	for _, most := range []int64{math.MaxInt64, little} {
		_ = p.tcp().SetWriteDeadline(time.Now().Add(floodHold / 8))
		if n, err := p.tcp().ReadFrom(zeros{}); !errors.Is(err, os.ErrDeadlineExceeded) || n > most {
			t.Errorf("wrote %d bytes, %v, want at most %d in time", n, err, most)
		}
	}
	start := time.Now()
	_ = p.tcp().SetLinger(0)
	_ = p.tcp().Close()
	if err := <-served; !Flood(err) || time.Since(start) > floodHold/4 {
		t.Errorf("Serve() = %v after %v, want the flood at once", err, time.Since(start))
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
