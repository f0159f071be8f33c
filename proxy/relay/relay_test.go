package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(peerEnv); addr != "" {
		if err := playPeers(addr); err != nil {
			log.Fatal(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// relayed is a client and a server with a relay between them.
type relayed struct {
	client, server *net.TCPConn
	counters       Counters
	cancel         context.CancelCauseFunc
	result         chan error
}

func startRelay(tb testing.TB) *relayed {
	tb.Helper()
	r := &relayed{counters: Counters{new(atomic.Uint64), new(atomic.Uint64)}, result: make(chan error, 1)}
	var down, up *net.TCPConn
	r.client, down = tcpPair(tb)
	up, r.server = tcpPair(tb)
	var ctx context.Context
	ctx, r.cancel = context.WithCancelCause(tb.Context())
	go func() { r.result <- Copy(ctx, down, up, r.counters) }()
	tb.Cleanup(func() { r.cancel(nil) })
	return r
}

// want checks the relay's result and counters at its end.
func (r *relayed) want(t *testing.T, err error, received, sent uint64) {
	t.Helper()
	if got := <-r.result; !errors.Is(got, err) {
		t.Errorf("Copy = %v, want %v", got, err)
	}
	if got := r.counters.Received.Load(); got != received {
		t.Errorf("received = %d, want %d", got, received)
	}
	if got := r.counters.Sent.Load(); got != sent {
		t.Errorf("sent = %d, want %d", got, sent)
	}
}

func write(t *testing.T, c net.Conn, p []byte) {
	t.Helper()
	if _, err := c.Write(p); err != nil {
		t.Fatal(err)
	}
}

func wantRead(t *testing.T, c net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %q, %v, want %q", got, err, want)
	}
}

func wantEOF(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("Read = %d, %v, want EOF", n, err)
	}
}

func TestCopyHalfClose(t *testing.T) {
	r := startRelay(t)
	write(t, r.client, []byte("request"))
	wantRead(t, r.server, []byte("request"))
	// Counters are live, not only at the end; the write is counted right after the bytes are on their way.
	for r.counters.Received.Load() != 7 {
		runtime.Gosched()
	}
	r.client.CloseWrite()
	wantEOF(t, r.server)
	write(t, r.server, []byte("the answer comes after the end"))
	wantRead(t, r.client, []byte("the answer comes after the end"))
	r.server.CloseWrite()
	wantEOF(t, r.client)
	r.want(t, nil, 7, 30)
}

// A reset of one side reaches the other as a plain end, and is success.
func TestCopyReset(t *testing.T) {
	r := startRelay(t)
	write(t, r.client, []byte("x"))
	wantRead(t, r.server, []byte("x"))
	r.server.SetLinger(0)
	r.server.Close()
	wantEOF(t, r.client)
	r.client.Close()
	r.want(t, nil, 1, 0)
}

func TestCopyCancel(t *testing.T) {
	cause := errors.New("connection closed due to policy change")
	r := startRelay(t)
	write(t, r.client, []byte("x"))
	wantRead(t, r.server, []byte("x"))
	r.cancel(cause)
	wantEOF(t, r.client)
	wantEOF(t, r.server)
	r.want(t, cause, 1, 0)
}

// The end of the context also ends a relay that is stuck on a receiver which does not read.
func TestCopyCancelWhileBlocked(t *testing.T) {
	cause := errors.New("cause")
	r := startRelay(t)
	go func() {
		p := make([]byte, 1<<20)
		for {
			if _, err := r.client.Write(p); err != nil {
				return
			}
		}
	}()
	// Blocked once the counter rests although the sender goes on.
	for last := uint64(0); ; {
		time.Sleep(20 * time.Millisecond)
		n := r.counters.Received.Load()
		if n > 0 && n == last {
			break
		}
		last = n
	}
	r.cancel(cause)
	if err := <-r.result; !errors.Is(err, cause) {
		t.Errorf("Copy = %v, want %v", err, cause)
	}
	r.client.Close()
}

// A failed half-close is reported; the other direction still runs to its end.
func TestCopyClosedConnection(t *testing.T) {
	client, down := tcpPair(t)
	up, _ := tcpPair(t)
	up.Close()
	client.Close()
	err := Copy(t.Context(), down, up, Counters{new(atomic.Uint64), new(atomic.Uint64)})
	var shutdown *ShutdownError
	if !errors.As(err, &shutdown) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("Copy = %v, want a *ShutdownError around %v", err, net.ErrClosed)
	}
}

// Much data both ways at once in pieces of odd sizes crosses all buffer sizes, against full sockets, and arrives in order.
func TestCopyBulk(t *testing.T) {
	const total = 32 << 20
	r := startRelay(t)
	var wg sync.WaitGroup
	pump := func(from, to *net.TCPConn, seed uint64) {
		out, in := sha256.New(), sha256.New()
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 0))
			block := make([]byte, 64<<10)
			for i := range block {
				block[i] = byte(rnd.Uint32())
			}
			for n := 0; n < total; {
				p := block[rnd.IntN(1000):][:min(total-n, 1+rnd.IntN(60000))]
				out.Write(p)
				if _, err := from.Write(p); err != nil {
					t.Error(err)
					return
				}
				n += len(p)
			}
			from.CloseWrite()
		})
		wg.Go(func() {
			n, err := io.Copy(in, struct{ io.Reader }{to})
			if n != total || err != nil {
				t.Errorf("read %d bytes, %v, want %d", n, err, total)
			}
		})
		t.Cleanup(func() {
			if !bytes.Equal(out.Sum(nil), in.Sum(nil)) {
				t.Error("bytes differ or are out of order")
			}
		})
	}
	pump(r.client, r.server, 1)
	pump(r.server, r.client, 2)
	wg.Wait()
	r.want(t, nil, total, total)
	if n := buffers.largest.Load(); n != 0 {
		t.Errorf("%d largest buffers in use after the end, want 0", n)
	}
}

func TestBufferLimit(t *testing.T) {
	var taken []*buffer
	for range maxLargest + 5 {
		taken = append(taken, takeBuffer(sizes-1))
	}
	large := 0
	for _, b := range taken {
		if b.size == sizes-1 {
			large++
		}
		b.release()
	}
	if large != maxLargest {
		t.Errorf("%d of the largest buffers given out, want %d", large, maxLargest)
	}
	if b := takeBuffer(sizes - 1); b.size != sizes-1 || len(b.bytes) != 256<<10 {
		t.Errorf("buffer after release has size %d, %d bytes, want the largest", b.size, len(b.bytes))
	} else {
		b.release()
	}
}

// BenchmarkIdle reports the memory of a relayed connection that is idle after one exchange, without its two sockets.
func BenchmarkIdle(b *testing.B) {
	const n = 400
	for b.Loop() {
		relays := make([]*relayed, 0, n)
		type pairs struct{ client, down, up, server *net.TCPConn }
		conns := make([]pairs, n)
		for i := range conns {
			conns[i].client, conns[i].down = tcpPair(b)
			conns[i].up, conns[i].server = tcpPair(b)
		}
		ctx, cancel := context.WithCancel(b.Context())
		heapBefore, stackBefore := inUse()
		var wg sync.WaitGroup
		for i := range conns {
			c := conns[i]
			relays = append(relays, &relayed{})
			wg.Go(func() { Copy(ctx, c.down, c.up, Counters{new(atomic.Uint64), new(atomic.Uint64)}) })
		}
		p := make([]byte, 1024)
		for _, c := range conns {
			c.client.Write(p)
			io.ReadFull(c.server, p)
			c.server.Write(p)
			io.ReadFull(c.client, p)
		}
		heap, stack := inUse()
		b.ReportMetric(float64(heap-heapBefore)/n, "heap-B/connection")
		b.ReportMetric(float64(stack-stackBefore)/n, "stack-B/connection")
		runtime.KeepAlive(relays)
		cancel()
		wg.Wait()
		for _, c := range conns {
			c.client.Close()
			c.server.Close()
		}
	}
}

func inUse() (heap, stack int64) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc), int64(m.StackInuse)
}
