package logging

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"
)

// line is an access line as a connection holds it.
type line struct {
	src, dst netip.AddrPort
	hbone    string
	sent     uint64
	duration time.Duration
}

func (l *line) LogFields(e *Encoder) {
	e.AddrPort("src.addr", l.src)
	e.String("src.workload", "shell-6d8bcd654d-t88gp")
	e.String("src.namespace", "default")
	e.String("src.identity", "spiffe://cluster.local/ns/default/sa/default")
	e.String("src.cluster", "Kubernetes")
	e.AddrPort("dst.addr", l.dst)
	e.Bare("dst.hbone_addr", l.hbone)
	e.String("dst.service", "echo.default.svc.cluster.local")
	e.String("dst.workload", "echo-1")
	e.String("dst.namespace", "default")
	e.String("dst.identity", "spiffe://cluster.local/ns/default/sa/echo")
	e.String("dst.cluster", "Kubernetes")
	e.String("direction", "outbound")
	e.Uint("bytes_sent", l.sent)
	e.Uint("bytes_recv", l.sent)
	e.Millis("duration", l.duration)
}

func benchLog(b testing.TB, json bool) *slog.Logger {
	l, err := New(Config{Output: io.Discard, JSON: json})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = l.Run(context.Background())
		close(done)
	}()
	b.Cleanup(func() {
		_ = l.Close(context.Background())
		<-done
	})
	return l.Logger("access")
}

var benchLine = &line{netip.MustParseAddrPort("10.244.0.24:46238"), netip.MustParseAddrPort("10.244.0.42:15008"), "10.96.108.116:80", 490, 13 * time.Millisecond}

// One access line whose fields write themselves.
func BenchmarkAccessFields(b *testing.B) {
	for name, json := range map[string]bool{"text": false, "json": true} {
		b.Run(name, func(b *testing.B) {
			log := benchLog(b, json)
			b.ReportAllocs()
			for b.Loop() {
				Emit(context.Background(), log, time.Now(), slog.LevelInfo, "connection complete", benchLine)
			}
		})
	}
}

// One access line of attributes that exist already: what the handler costs.
func BenchmarkAccessAttrs(b *testing.B) {
	log, attrs := benchLog(b, false), accessAttrs()
	b.ReportAllocs()
	for b.Loop() {
		log.LogAttrs(context.Background(), slog.LevelInfo, "connection complete", attrs...)
	}
}

// From all processors at once.
func BenchmarkAccessParallel(b *testing.B) {
	log := benchLog(b, false)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			Emit(context.Background(), log, time.Now(), slog.LevelInfo, "connection complete", benchLine)
		}
	})
}

// A line that the filter keeps out.
func BenchmarkDisabled(b *testing.B) {
	log := benchLog(b, false)
	b.ReportAllocs()
	for b.Loop() {
		log.LogAttrs(context.Background(), slog.LevelDebug, "no", slog.Int("n", 1))
	}
}

func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	log, attrs := benchLog(t, false), accessAttrs()
	for _, tc := range []struct {
		name string
		max  float64
		f    func()
	}{
		{"fields", 0, func() {
			Emit(context.Background(), log, time.Now(), slog.LevelInfo, "connection complete", benchLine)
		}},
		{"attributes", 1, func() { log.LogAttrs(context.Background(), slog.LevelInfo, "connection complete", attrs...) }},
		{"disabled", 0, func() { log.LogAttrs(context.Background(), slog.LevelDebug, "no", slog.Int("n", 1)) }},
	} {
		for range 2000 {
			tc.f() // fills the pools
		}
		// The average is rounded down, which forgives a buffer that the garbage
		// collector took from its pool.
		if got := testing.AllocsPerRun(1000, tc.f); got > tc.max {
			t.Errorf("%s: %v allocations, want at most %v", tc.name, got, tc.max)
		}
	}
}
