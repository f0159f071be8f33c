package worker

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGo_RunsEveryTask(t *testing.T) {
	var p Pool
	defer p.Close()
	var ran atomic.Int32
	var all sync.WaitGroup
	for range 1000 {
		all.Add(1)
		p.Go(func() { defer all.Done(); ran.Add(1) })
	}
	all.Wait()
	if n := ran.Load(); n != 1000 {
		t.Errorf("%d tasks ran, want 1000", n)
	}
}

// Tasks that wait for one another do not wait for a goroutine.
func TestGo_NeverQueues(t *testing.T) {
	var p Pool
	defer p.Close()
	const n = 3 * maxIdle
	var all sync.WaitGroup
	release := make(chan struct{})
	var started sync.WaitGroup
	for range n {
		all.Add(1)
		started.Add(1)
		p.Go(func() { defer all.Done(); started.Done(); <-release })
	}
	started.Wait()
	close(release)
	all.Wait()
}

func TestTrim_EndsIdleGoroutinesAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool
		for range 3 {
			ran := false
			p.Go(func() { ran = true })
			synctest.Wait()
			if len(p.idle) != 1 || !ran {
				t.Fatalf("%d goroutines are idle, the task ran: %t, want one that ran it", len(p.idle), ran)
			}
			p.Trim()
			p.working.Wait() // a deadlock if the goroutine is still there
		}
	})
}

func TestClose_WaitsForTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool
		var ended atomic.Bool
		p.Go(func() { time.Sleep(time.Second); ended.Store(true) })
		p.Close()
		if !ended.Load() {
			t.Error("Close() returned before the task had ended")
		}
	})
}

// grow needs a large stack.
func grow(n int) int {
	var frame [256]byte
	frame[n%256] = byte(n)
	if n == 0 {
		return int(frame[0])
	}
	return grow(n-1) + int(frame[n%256])
}

func BenchmarkGo(b *testing.B) {
	var p Pool
	defer p.Close()
	for name, start := range map[string]func(func()){"pool": p.Go, "new goroutine": func(f func()) { go f() }} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			done := make(chan struct{})
			task := func() { grow(20); done <- struct{}{} }
			for b.Loop() {
				start(task)
				<-done
			}
		})
	}
}
