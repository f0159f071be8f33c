package outbound_test

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"ztunnel/proxy/outbound"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/socket"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/logging"
)

// BenchmarkConnection is a whole connection (open, one round trip of a kilobyte,
// close) through the outbound and the inbound side, with and without telemetry
// (metrics and access log), and without both sides. What telemetry costs is the
// difference of the first two, what the proxies cost that of the last two. The
// processor time is that of all, applications included.
func BenchmarkConnection(b *testing.B) {
	b.Run("telemetry", func(b *testing.B) {
		log, err := logging.New(logging.Config{Output: devNull(b)})
		if err != nil {
			b.Fatal(err)
		}
		var writing sync.WaitGroup
		writing.Go(func() { _ = log.Run(context.Background()) }) // ends with Close
		b.Cleanup(func() {
			_ = log.Close(context.Background())
			writing.Wait()
		})
		benchmarkProxied(b, func() *connection.Recorder {
			return connection.NewRecorder(connection.Config{Log: log.Logger(logging.ScopeAccess)})
		})
	})
	b.Run("none", func(b *testing.B) { benchmarkProxied(b, func() *connection.Recorder { return nil }) })
	b.Run("direct", func(b *testing.B) { benchmarkConnections(b, proxytest.Echo(b, waypointIP).String()) })
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

func benchmarkProxied(b *testing.B, recorder func() *connection.Recorder) {
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
	benchmarkConnections(b, ln.Addr().String())
}

// benchmarkConnections makes connections to an echo server, eight at a time.
func benchmarkConnections(b *testing.B, addr string) {
	const workers = 8
	one := func() error {
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
	if err := one(); err != nil { // opens the tunnel
		b.Fatal(err)
	}
	b.ReportAllocs()
	start := processorTime(b)
	for b.Loop() {
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				for range 10 {
					if err := one(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	b.ReportMetric(float64((processorTime(b)-start).Microseconds())/float64(b.N*workers*10), "cpu-us/connection")
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
