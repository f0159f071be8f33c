package connection

import (
	"context"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"unsafe"

	"ztunnel/telemetry/logging"
)

// off is a handler that wants no line.
type off struct{ slog.Handler }

func (off) Enabled(context.Context, slog.Level) bool { return false }

func BenchmarkOpenClose(b *testing.B) {
	log, err := logging.New(logging.Config{Output: io.Discard})
	if err != nil {
		b.Fatal(err)
	}
	var writing sync.WaitGroup
	writing.Go(func() { _ = log.Run(context.Background()) }) // ends with Close
	defer writing.Wait()
	defer func() { _ = log.Close(context.Background()) }()
	for name, r := range map[string]*Recorder{
		"off":             nil,
		"metrics":         NewRecorder(Config{Log: slog.New(off{})}),
		"metrics and log": NewRecorder(Config{Log: log.Logger("access")}),
	} {
		b.Run(name, func(b *testing.B) {
			d := call(Source)
			r.Open(d).Close(nil)
			b.ReportAllocs()
			for b.Loop() {
				rec := r.Open(d)
				rec.Received.Add(1)
				rec.Close(nil)
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		r := NewRecorder(Config{Log: slog.New(off{})})
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			d := call(Source)
			for pb.Next() {
				r.Open(d).Close(nil)
			}
		})
	})
	b.Run("new series", func(b *testing.B) {
		r := NewRecorder(Config{Log: slog.New(off{}), MaxSeries: 1 << 30})
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i++
			r.Open(to(i)).Close(nil)
		}
	})
}

func BenchmarkBytes(b *testing.B) {
	rec := NewRecorder(Config{}).Open(call(Source))
	b.ReportAllocs()
	for b.Loop() {
		rec.Received.Add(16384)
	}
}

// Open, Close and the line of the log together must stay within their budget
// of allocations.
func TestAllocations(t *testing.T) {
	log, err := logging.New(logging.Config{Output: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := log.Run(context.Background()); err != nil {
			t.Errorf("Run() = %v", err)
		}
	})
	defer writing.Wait()
	defer func() {
		if err := log.Close(context.Background()); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}()
	d := call(Source)
	for name, test := range map[string]struct {
		log *slog.Logger
		max float64
	}{"without a line": {slog.New(off{}), 1}, "with a line": {log.Logger("access"), 2}} {
		r := NewRecorder(Config{Log: test.log})
		for range 2000 {
			r.Open(d).Close(nil) // fills the pools of the log
		}
		if n := testing.AllocsPerRun(1000, func() { r.Open(d).Close(nil) }); n > test.max && !raceEnabled {
			t.Errorf("%s: Open and Close allocate %v times, want at most %v", name, n, test.max)
		}
	}
	rec := NewRecorder(Config{}).Open(d)
	if n := testing.AllocsPerRun(1000, func() { rec.Received.Add(1); rec.Sent.Add(1) }); n != 0 {
		t.Errorf("counting bytes allocates %v times, want 0", n)
	}
}

// What is held for an open connection is its record, and that is small.
func TestMemory(t *testing.T) {
	const most = 192
	if size := unsafe.Sizeof(Record{}); size > most {
		t.Errorf("a record has %d bytes, want at most %d", size, most)
	}
	if raceEnabled {
		t.Skip("the race detector adds to each allocation")
	}
	const n = 50_000
	r, open, d := NewRecorder(Config{}), make([]*Record, n), call(Source)
	r.Open(d).Close(nil) // the series
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range open {
		open[i] = r.Open(d)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := float64(after.HeapAlloc-before.HeapAlloc) / n; each > most*1.05 {
		t.Errorf("an open connection holds %.0f bytes, want at most %d", each, most)
	}
	for _, rec := range open {
		rec.Close(nil)
	}
}

// The two counters of a record, and those of its neighbours, are in different
// cache lines.
func TestFalseSharing(t *testing.T) {
	const line = 64
	received, sent, size := unsafe.Offsetof(Record{}.Received), unsafe.Offsetof(Record{}.Sent), unsafe.Sizeof(Record{})
	if sent-received < line || received+size-sent < line {
		t.Errorf("Received is at %d and Sent at %d of %d, want them %d apart, also from those of a neighbour", received, sent, size, line)
	}
}
