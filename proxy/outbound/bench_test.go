package outbound_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ztunnel/proxy/outbound"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/socket"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/logging"
)

// What BenchmarkConnection compares.
const (
	proxied  = iota // through both proxies with telemetry: metrics and access log
	silent          // the same without telemetry
	baseline        // without proxies

	variants
)

const (
	benchWorkers     = 8
	benchConnections = 25 // of each worker in a round
	// benchSettle is how long a round waits for what connections leave behind,
	// above all for the lines that are still in the queue of the log.
	benchSettle = 20 * time.Millisecond
)

// BenchmarkConnection is a whole connection (open, one round trip of a kilobyte,
// close) through the outbound and the inbound side, with and without telemetry
// (metrics and access log), and without both sides. The processor time is that
// of the process, so of the applications and the garbage collector too. All
// three are set up at once, and each iteration makes a round with and one without
// telemetry in random order, so that the machine's moods meet both: what
// telemetry costs is the median of the differences within an iteration. Some
// hundred iterations (-benchtime 500x) tell it to a few tenths of a percent, see
// the metric %error.
func BenchmarkConnection(b *testing.B) {
	out := &lineCounter{file: devNull(b)}
	access := benchLog(b, out)
	var addrs [variants]string
	addrs[proxied] = benchProxies(b, func() *connection.Recorder {
		return connection.NewRecorder(connection.Config{Log: access})
	})
	addrs[silent] = benchProxies(b, func() *connection.Recorder { return nil })
	addrs[baseline] = proxytest.Echo(b, waypointIP).String()
	for _, addr := range addrs { // opens the tunnels and fills the pools
		benchRound(b, addr)
	}
	lines, writes := out.lines.Load(), out.writes.Load()
	var all [variants][]float64
	var added []float64
	for b.Loop() {
		var cost [variants]float64
		for _, v := range rand.Perm(variants) {
			if v == baseline && len(added)%8 != 0 { // which the difference does not need
				continue
			}
			cost[v] = benchRound(b, addrs[v])
			all[v] = append(all[v], cost[v])
		}
		added = append(added, cost[proxied]-cost[silent])
	}
	want := int64(2 * b.N * benchWorkers * benchConnections)
	for range 100 { // on a busy machine the last lines may take a while
		if out.lines.Load()-lines >= want {
			break
		}
		<-time.After(benchSettle)
	}
	lines, writes = out.lines.Load()-lines, out.writes.Load()-writes
	if lines < want { // there may be some of the first rounds among them
		b.Errorf("%d lines of the access log, want at least %d: one of each side", lines, want)
	}
	middle, spread := median(added)
	total, _ := median(all[proxied])
	without, _ := median(all[silent])
	direct, _ := median(all[baseline])
	b.ReportMetric(0, "ns/op") // of no meaning here
	b.ReportMetric(total, "us/connection")
	b.ReportMetric(without, "us/silent")
	b.ReportMetric(direct, "us/direct")
	b.ReportMetric(100*middle/total, "%telemetry")
	b.ReportMetric(100*spread/total, "%error")
	b.ReportMetric(float64(lines)/float64(writes), "lines/write")
}

// benchLog is the access log of a process.
func benchLog(b *testing.B, out io.Writer) *slog.Logger {
	b.Helper()
	log, err := logging.New(logging.Config{Output: out})
	if err != nil {
		b.Fatal(err)
	}
	var writing sync.WaitGroup
	writing.Go(func() { _ = log.Run(context.Background()) }) // ends with Close
	b.Cleanup(func() {
		_ = log.Close(context.Background())
		writing.Wait()
	})
	return log.Logger(logging.ScopeAccess)
}

// benchProxies serves both sides, and returns where the outbound one takes
// connections.
func benchProxies(b *testing.B, recorder func() *connection.Recorder) string {
	b.Helper()
	echo := proxytest.Echo(b, waypointIP)
	p := newPod(b, func(p *pod, c *outbound.Config) { p.recorder, c.Recorder = recorder, recorder() })
	p.waypoint(b)
	ln := proxytest.Listen(b, "127.0.0.1")
	p.served.Go(func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			p.served.Go(func() { p.Proxy(p.ctx, conn, socket.Peer(conn), at(echo.Port()), time.Now()) })
		}
	})
	b.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().String()
}

// benchRound makes connections to an echo server, and returns the processor time
// of one in microseconds.
func benchRound(b *testing.B, addr string) float64 {
	b.Helper()
	start := processorTime(b)
	var all sync.WaitGroup
	for range benchWorkers {
		all.Go(func() {
			for range benchConnections {
				if err := benchConnection(addr); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	<-time.After(benchSettle)
	return float64(processorTime(b)-start) / float64(time.Microsecond*benchWorkers*benchConnections)
}

func benchConnection(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	message := make([]byte, 1024)
	if _, err := c.Write(message); err != nil {
		return err
	}
	_, err = io.ReadFull(c, message)
	return err
}

// lineCounter is a file that knows how many lines it got in how many writes.
type lineCounter struct {
	file          io.Writer
	lines, writes atomic.Int64
}

func (l *lineCounter) Write(p []byte) (int, error) {
	l.lines.Add(int64(bytes.Count(p, []byte{'\n'})))
	l.writes.Add(1)
	return l.file.Write(p)
}

func devNull(b *testing.B) *os.File {
	b.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	return f
}

// median also returns its standard error, from the quartiles, as that of values
// with a normal distribution.
func median(of []float64) (middle, spread float64) {
	slices.Sort(of)
	n := len(of)
	sigma := (of[3*n/4] - of[n/4]) / 1.349
	return of[n/2], 1.253 * sigma / math.Sqrt(float64(n))
}

// processorTime is what the process has used.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
