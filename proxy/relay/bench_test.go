package relay

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// peerEnv makes a child process of the benchmarks play the two ends of a relayed connection, so that the processor
// time of the parent is that of the relay alone. Its value is the address to dial.
const peerEnv = "ZTUNNEL_RELAY_PEER"

const bulkChunk = 64 << 20

// playPeers is the child process: it dials the relay twice, the first connection being the client and the second the
// server, and pumps or plays ping-pong at the command of single bytes on standard input, until that ends.
func playPeers(addr string) error {
	client, err := net.Dial("tcp4", addr)
	if err != nil {
		return err
	}
	server, err := net.Dial("tcp4", addr)
	if err != nil {
		return err
	}
	cmd := make([]byte, 1)
	out, in := make([]byte, 128<<10), make([]byte, 256<<10)
	for {
		if _, err := io.ReadFull(os.Stdin, cmd); err != nil {
			return nil
		}
		switch cmd[0] {
		case 'b':
			go func() {
				for n := 0; n < bulkChunk; n += len(out) {
					client.Write(out)
				}
			}()
			for got := 0; got < bulkChunk; {
				n, err := server.Read(in)
				if err != nil {
					return err
				}
				got += n
			}
		case 'p':
			for range 1000 {
				client.Write(out[:1024])
				io.ReadFull(server, in[:1024])
				server.Write(in[:1024])
				io.ReadFull(client, in[:1024])
			}
		}
		os.Stdout.Write(cmd)
	}
}

// startPeers starts the child process and returns its two connections and a function that has it run one command.
func startPeers(b *testing.B) (down, up *net.TCPConn, command func(byte)) {
	b.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), peerEnv+"="+ln.Addr().String())
	stdin, err := child.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stdin.Close(); child.Wait() })
	conns := [2]*net.TCPConn{}
	for i := range conns {
		c, err := ln.Accept()
		if err != nil {
			b.Fatal(err)
		}
		conns[i] = c.(*net.TCPConn)
	}
	answer := make([]byte, 1)
	return conns[0], conns[1], func(cmd byte) {
		if _, err := stdin.Write([]byte{cmd}); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(stdout, answer); err != nil || answer[0] != cmd {
			b.Fatalf("peer process answered %q, %v, want %q", answer, err, cmd)
		}
	}
}

// cpuSeconds is the processor time of this process so far.
func cpuSeconds(tb testing.TB) float64 {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	s := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return s(u.Utime) + s(u.Stime)
}

// ioCopy is the relay made of io.Copy, which splices; with plain set it does not.
func ioCopy(plain bool) func(context.Context, *net.TCPConn, *net.TCPConn, Counters) error {
	one := func(dst, src *net.TCPConn) {
		if plain {
			io.Copy(struct{ io.Writer }{dst}, struct{ io.Reader }{src})
		} else {
			io.Copy(dst, src)
		}
		dst.CloseWrite()
	}
	return func(_ context.Context, down, up *net.TCPConn, _ Counters) error {
		var wg sync.WaitGroup
		wg.Go(func() { one(down, up) })
		one(up, down)
		wg.Wait()
		down.Close()
		up.Close()
		return nil
	}
}

// benchmarkRelays runs one peer command per operation with each kind of relay.
func benchmarkRelays(b *testing.B, cmd byte, metric string, perOp float64) {
	for _, v := range []struct {
		name string
		copy func(context.Context, *net.TCPConn, *net.TCPConn, Counters) error
	}{{"Copy", Copy}, {"io.Copy", ioCopy(false)}, {"io.Copy-nosplice", ioCopy(true)}} {
		b.Run(v.name, func(b *testing.B) {
			down, up, command := startPeers(b)
			c := Counters{new(atomic.Uint64), new(atomic.Uint64)}
			ended := make(chan struct{})
			go func() { defer close(ended); v.copy(b.Context(), down, up, c) }()
			b.ResetTimer()
			start := cpuSeconds(b)
			for range b.N {
				command(cmd)
			}
			b.ReportMetric((cpuSeconds(b)-start)*perOp/float64(b.N), metric)
			b.StopTimer()
			down.Close()
			up.Close()
			<-ended
		})
	}
}

// BenchmarkBulk moves 64 MiB per operation in one direction.
func BenchmarkBulk(b *testing.B) { benchmarkRelays(b, 'b', "CPU-s/GB", 1e9/bulkChunk) }

// BenchmarkPing makes 1000 exchanges of 1 KiB per operation.
func BenchmarkPing(b *testing.B) { benchmarkRelays(b, 'p', "CPU-us/exchange", 1e3) }
