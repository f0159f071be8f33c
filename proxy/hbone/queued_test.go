package hbone

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
)

// What a client sends to applications that take nothing is bounded for all streams
// of a tunnel together, and goes on when one of them takes it.
func TestQueuedDataIsBounded(t *testing.T) {
	const window, streams = 256 << 10, 20
	for name, take := range map[string]func(s *Stream){
		"read":  func(s *Stream) { io.Copy(io.Discard, s) },
		"reset": func(s *Stream) { s.Reset(http2.ErrCodeCancel) },
	} {
		t.Run(name, func(t *testing.T) {
			var wanted chan struct{}
			handle := func(_ context.Context, s *Stream) {
				if s.Accept(nil) == nil {
					<-wanted
					take(s)
				}
			}
			m := &Metrics{}
			cfg := &Config{StreamWindow: window, ConnectionWindow: window, Metrics: m}
			serverTest(t, cfg, handle, func(t *testing.T, sc *ServerConn, p *script, _ <-chan error) {
				wanted = make(chan struct{})
				var credit atomic.Int64
				credit.Store(window)
				go func() { // reads what the server says, until the end
					for {
						f, err := p.fr.ReadFrame()
						if err != nil {
							return
						}
						if w, ok := f.(*http2.WindowUpdateFrame); ok && w.StreamID == 0 {
							credit.Add(int64(w.Increment))
						}
					}
				}()
				sent := int64(0)
				fill := func() {
					data := make([]byte, 16<<10)
					for id := uint32(1); id < 2*streams; id += 2 {
						for range window / len(data) {
							if credit.Load() < int64(len(data)) {
								return
							}
							p.must(p.fr.WriteData(id, false, data))
							credit.Add(-int64(len(data)))
							sent += int64(len(data))
							synctest.Wait()
						}
					}
				}
				for id := uint32(1); id < 2*streams; id += 2 {
					p.writeConnect(id)
				}
				synctest.Wait()
				fill()
				if most := int64(queueWindows+1)*window + window/4; sent > most || m.ServerQueued.Load() != sent {
					t.Errorf("%d bytes were let in, %d are counted, want at most %d", sent, m.ServerQueued.Load(), most)
				}
				close(wanted)
				synctest.Wait()
				if n := m.ServerQueued.Load() + sc.c.queued.Load(); n != 0 {
					t.Errorf("%d bytes are counted when all were taken, want none", n)
				}
				if left := credit.Load(); left < window/2 {
					t.Errorf("a window of %d is left when all was taken", left)
				}
			})
		})
	}
}
