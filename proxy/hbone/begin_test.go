package hbone

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Of streams that come together maxBeginnings begin. The others take turns, in
// their order, as handlers answer or end.
func TestBeginnings_TakeTurns(t *testing.T) {
	for name, answer := range map[string]func(*Stream){
		"accepted":   func(s *Stream) { _ = s.Accept(nil) },
		"rejected":   func(s *Stream) { _ = s.Reject(503) },
		"given up":   func(*Stream) {},
		"reset":      func(s *Stream) { s.Reset(0) },
		"twice":      func(s *Stream) { _, _ = s.Accept(nil), s.Accept(nil) },
		"not joined": func(s *Stream) { _ = s.Accept(nil); s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			var begun []uint32
			var release chan struct{}
			handle := func(_ context.Context, s *Stream) {
				begun = append(begun, s.ID()) // one at a time, see below
				<-release
				answer(s)
			}
			serverTest(t, nil, handle, func(t *testing.T, sc *ServerConn, p *script, _ <-chan error) {
				takeTurns(sc, 2)
				release = make(chan struct{})
				const streams = 50
				for i := range uint32(streams) {
					p.writeConnect(2*i + 1)
					synctest.Wait()
				}
				if len(begun) != maxBeginnings {
					t.Fatalf("%d handlers have begun, want %d", len(begun), maxBeginnings)
				}
				for answered := 1; len(begun) < streams; answered++ {
					release <- struct{}{}
					synctest.Wait()
					if want := max(maxBeginnings, answered+2); len(begun) != want {
						t.Fatalf("%d handlers have begun after %d answers, want %d", len(begun), answered, want)
					}
				}
				for i, id := range begun {
					if want := uint32(2*i + 1); id != want {
						t.Fatalf("handler %d has stream %d, want %d", i, id, want)
					}
				}
				close(release)
			})
		})
	}
}

// Handlers that wait for long hold nobody up for long.
func TestBeginnings_GoOnWhenStuck(t *testing.T) {
	var begun atomic.Int64
	var release chan struct{}
	handle := func(context.Context, *Stream) { begun.Add(1); <-release }
	serverTest(t, nil, handle, func(t *testing.T, sc *ServerConn, p *script, _ <-chan error) {
		takeTurns(sc, 1)
		release = make(chan struct{})
		start := time.Now()
		for i := range uint32(200) {
			p.writeConnect(2*i + 1)
		}
		want := int64(maxBeginnings)
		for i := 0; want < 200; i++ {
			synctest.Wait()
			if got := begun.Load(); got != want {
				t.Fatalf("%d handlers have begun after %v, want %d", got, time.Since(start), want)
			}
			time.Sleep(beginPatience)
			want += 2 << i
		}
		synctest.Wait()
		if got := begun.Load(); got != 200 {
			t.Errorf("%d handlers have begun after %v, want all", got, time.Since(start))
		}
		close(release)
	})
}

// Streams that end while they wait have no handlers, and do not count as pending.
func TestBeginnings_GivenUp(t *testing.T) {
	for name, end := range map[string]func(p *script){
		"by resets": func(p *script) {
			for i := uint32(maxBeginnings); i < 200; i++ {
				p.must(p.fr.WriteRSTStream(2*i+1, 0))
			}
		},
		"by the end of the tunnel": func(p *script) { p.must(p.conn.Close()) },
		"by a flood": func(p *script) {
			for range 1500 {
				p.must(p.fr.WritePing(false, [8]byte{}))
			}
			_, _ = p.goAway() // and the connection is held
		},
	} {
		t.Run(name, func(t *testing.T) {
			var begun atomic.Int64
			var release chan struct{}
			handle := func(context.Context, *Stream) { begun.Add(1); <-release }
			m := &Metrics{}
			serverTest(t, &Config{Limits: Limits{PendingResets: 1}, Metrics: m}, handle, func(t *testing.T, _ *ServerConn, p *script, served <-chan error) {
				release = make(chan struct{})
				for i := range uint32(200) {
					p.writeConnect(2*i + 1)
				}
				end(p)
				synctest.Wait()
				close(release)
				time.Sleep(time.Second)
				_ = p.conn.Close()
				<-served
				if begun.Load() != maxBeginnings || m.ResetFloods.Load() != 0 {
					t.Errorf("%d handlers have begun, %d floods, want %d and none", begun.Load(), m.ResetFloods.Load(), maxBeginnings)
				}
			})
		})
	}
}

// takeTurns sets how many handlers run while others wait, whatever the machine.
func takeTurns(sc *ServerConn, most int) {
	sc.c.mu.Lock()
	defer sc.c.mu.Unlock()
	sc.beginnings.most = most
}
