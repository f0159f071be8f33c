package hbone

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// path is an application's connection through both ends of a tunnel.
func path(t testing.TB, app func() *net.TCPConn) (*ClientConn, *joined) {
	t.Helper()
	a, b := tcpPair(t)
	cc, _ := pair(t, a, b, nil, relayTo(app))
	j := join(t, t.Context(), cc)
	t.Cleanup(func() { j.app.Close(); <-j.result })
	return cc, j
}

// cpu is the processor time that the process has used.
func cpu(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Bytes through both proxies, with the two applications in the same process.
func BenchmarkRelayUpload(b *testing.B) {
	const chunk = 1 << 20
	done := make(chan struct{})
	_, j := path(b, serveTCP(b, func(c *net.TCPConn) { io.Copy(io.Discard, struct{ io.Reader }{c}); close(done) }))
	data := make([]byte, chunk)
	b.SetBytes(chunk)
	b.ReportAllocs()
	start := cpu(b)
	for b.Loop() {
		if _, err := j.app.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	j.app.CloseWrite()
	<-done
	b.ReportMetric((cpu(b)-start).Seconds()/(float64(b.N)*chunk/1e9), "cpu-s/GB")
}

func BenchmarkRoundTrip(b *testing.B) {
	_, j := path(b, echoTCP(b))
	buf := make([]byte, 1024)
	b.ReportAllocs()
	start := cpu(b)
	for b.Loop() {
		j.app.Write(buf)
		if _, err := io.ReadFull(j.app, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu(b)-start).Seconds()/float64(b.N)*100_000, "cpu-s/100k")
}

// One short stream without an application: request, response, both ends.
func BenchmarkOpenClose(b *testing.B) {
	x, y := tcpPair(b)
	cc, _ := pair(b, x, y, nil, echo)
	r := &Request{Authority: "10.0.0.1:80", Header: Header{{"baggage", "k8s.cluster.name=Kubernetes"}, {"forwarded", `for="10.0.0.2:1234"`}}}
	b.ReportAllocs()
	for b.Loop() {
		s, err := cc.Open(b.Context(), r)
		if err != nil {
			b.Fatal(err)
		}
		s.CloseWrite()
		if _, err := io.ReadAll(s); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

// No chunk of bytes costs an allocation of ours: crypto/tls makes one for each
// record that it reads, of which a round trip has two.
func TestAllocationsPerChunk(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	_, j := path(t, echoTCP(t))
	for _, tt := range []struct {
		name   string
		size   int
		budget float64
	}{{"small", 1 << 10, 3}, {"large", 256 << 10, 2*17 + 12}} {
		out, in := make([]byte, tt.size), make([]byte, tt.size)
		got := testing.AllocsPerRun(200, func() {
			go j.app.Write(out)
			if _, err := io.ReadFull(j.app, in); err != nil {
				t.Fatal(err)
			}
		}) - 1 // the go statement
		if got > tt.budget {
			t.Errorf("%s: %v allocations per round trip, want at most %v", tt.name, got, tt.budget)
		}
	}
}

// A stream costs a few allocations on both sides together.
func TestAllocationsPerStream(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	const budget = 30
	a, b := tcpPair(t)
	cc, _ := pair(t, a, b, nil, echo)
	r := &Request{Authority: "10.0.0.1:80"}
	buf := make([]byte, 1)
	got := testing.AllocsPerRun(200, func() {
		s, err := cc.Open(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		s.CloseWrite()
		if _, err := s.Read(buf); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		s.Close()
	})
	if got > budget {
		t.Errorf("%v allocations per stream, want at most %v", got, budget)
	}
	t.Logf("%v allocations per stream", got)
}
