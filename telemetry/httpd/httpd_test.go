package httpd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lockedBuffer is a buffer for concurrent writers.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// serve serves a handler on loopback; stop ends that and checks the result.
func serve(t *testing.T, cfg Config) (addr string, s *Server, stop func()) {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ln, err := Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	s = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return ln.Addr().String(), s, stop
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// hello answers any request.
var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, "hello "+r.URL.Path)
})

// ask sends text and reads one response.
func ask(t *testing.T, conn io.ReadWriter, text string) (status int, body string) {
	t.Helper()
	if text != "" {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("reading the response to %.80q: %v", text, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

const get = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n"

func TestServe(t *testing.T) {
	var log lockedBuffer
	addr, _, stop := serve(t, Config{Component: "admin", Handler: hello, Log: slog.New(slog.NewTextHandler(&log, nil))})
	conn := dial(t, addr)
	for range 2 { // keep-alive
		if status, body := ask(t, conn, get); status != 200 || body != "hello /x" {
			t.Errorf("got %d %q, want 200 hello", status, body)
		}
	}
	stop()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read after the end = %v, want EOF", err)
	}
	for _, want := range []string{"listener established", "component=admin", "address=" + addr, "listener drained"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log %q, want %q", log.String(), want)
		}
	}
}

// A client that shuts down its sending side still gets its answer, and the
// handler is not told to stop.
func TestHalfClose(t *testing.T) {
	addr, _, _ := serve(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-w.(http.CloseNotifier).CloseNotify() //nolint:staticcheck // that the context does not tell of the end is what is tested
		if err := r.Context().Err(); err != nil {
			t.Errorf("context of the request: %v", err)
		}
		hello(w, r)
	})})
	conn := dial(t, addr)
	if _, err := io.WriteString(conn, get); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if status, body := ask(t, conn, ""); status != 200 || body != "hello /x" {
		t.Errorf("got %d %q, want 200 hello", status, body)
	}
}

func TestHeaderLimits(t *testing.T) {
	addr, _, _ := serve(t, Config{Handler: hello})
	header := func(size int) string {
		return "GET /x HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", size) + "\r\n\r\n"
	}
	if status, _ := ask(t, dial(t, addr), header(7<<10)); status != 200 {
		t.Errorf("status with a header of 7 KiB = %d, want 200", status)
	}
	if status, _ := ask(t, dial(t, addr), header(9<<10)); status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status with a header of 9 KiB = %d, want 431", status)
	}
	conn := dial(t, addr) // never ends its header
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\n"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	_, _ = io.Copy(io.Discard, conn)
	if took := time.Since(begin); took < headerTimeout-100*time.Millisecond || took > headerTimeout+2*time.Second {
		t.Errorf("unfinished header was waited for %v, want %v", took, headerTimeout)
	}
}

// Other versions are not spoken, nor HTTP/2 with prior knowledge.
func TestOtherVersions(t *testing.T) {
	addr, _, _ := serve(t, Config{Handler: hello})
	for _, request := range []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET / HTTP/0.9\r\n\r\n"} {
		conn := dial(t, addr)
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(b), "HTTP/1.1 400 ") {
			t.Errorf("the answer to %q is %q, want 400", request, b)
		}
	}
}

// A connection too many takes the place of the one that has waited longest for
// a request, but of none that is answered.
func TestTooManyConns(t *testing.T) {
	release := make(chan struct{})
	busy := make(chan struct{})
	addr, s, stop := serve(t, Config{MaxConns: 3, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/busy" {
			busy <- struct{}{}
			<-release
		}
		hello(w, r)
	})})
	wantClosed := func(what string, conn net.Conn) {
		t.Helper()
		if _, err := io.ReadAll(conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: %v, want it closed", what, err)
		}
	}
	const getBusy = "GET /busy HTTP/1.1\r\nHost: h\r\n\r\n"
	idle := dial(t, addr)
	if status, _ := ask(t, idle, get); status != 200 {
		t.Fatalf("status = %d, want 200", status)
	}
	slow := dial(t, addr)
	if _, err := io.WriteString(slow, "GET / HTTP/1.1\r\nSlow: "); err != nil {
		t.Fatal(err)
	}
	var working []net.Conn
	for range 3 { // the second takes the place of idle, the third that of slow
		conn := dial(t, addr)
		if _, err := io.WriteString(conn, getBusy); err != nil {
			t.Fatal(err)
		}
		<-busy
		working = append(working, conn)
	}
	wantClosed("idle connection", idle)
	wantClosed("slow connection", slow)
	wantClosed("connection beside busy ones", dial(t, addr))
	if got := s.Refused(); got != 3 {
		t.Errorf("Refused() = %d, want 3", got)
	}
	close(release)
	for _, conn := range working {
		if status, _ := ask(t, conn, ""); status != 200 {
			t.Errorf("status of a busy connection = %d, want 200", status)
		}
		conn.Close()
	}
	stop()
	if open, waiting := s.conns.Load(), s.waiting.conns.Len(); open != 0 || waiting != 0 {
		t.Errorf("%d connections after the end, of which %d wait, want none", open, waiting)
	}
}

func TestPanic(t *testing.T) {
	var log lockedBuffer
	addr, _, _ := serve(t, Config{
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oops") }),
		Log:     slog.New(slog.NewTextHandler(&log, nil)),
	})
	conn := dial(t, addr)
	if _, err := io.WriteString(conn, get); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); err != nil || len(b) != 0 {
		t.Errorf("got %q, %v, want nothing", b, err)
	}
	if !strings.Contains(log.String(), "panic=oops") || !strings.Contains(log.String(), "httpd_test.go") {
		t.Errorf("log %q, want the panic with its stack", log.String())
	}
}

func TestListenConflict(t *testing.T) {
	ln, err := Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := netip.MustParseAddrPort(ln.Addr().String())
	if ln2, err := Listen(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "bind "+addr.String()) {
		if err == nil {
			ln2.Close()
		}
		t.Errorf("Listen = %v, want an error with the address", err)
	}
}

// A request that is being answered when the server ends gets its answer, and
// Serve waits for it.
func TestEndWaitsForRequests(t *testing.T) {
	entered := make(chan struct{})
	addr, _, stop := serve(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		hello(w, r)
	})})
	conn := dial(t, addr)
	if _, err := io.WriteString(conn, get); err != nil {
		t.Fatal(err)
	}
	<-entered
	stop()
	if status, body := ask(t, conn, ""); status != 200 || body != "hello /x" {
		t.Errorf("got %d %q, want 200 hello", status, body)
	}
}

// serveConn serves one end of a pipe; the result comes from the channel.
func serveConn(ctx context.Context, s *Server) (net.Conn, <-chan error) {
	client, server := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- s.ServeConn(ctx, server) }()
	return client, done
}

func TestServeConn(t *testing.T) {
	s := New(Config{Handler: hello, Log: slog.New(slog.DiscardHandler)})
	conn, done := serveConn(t.Context(), s)
	for range 3 {
		if status, body := ask(t, conn, get); status != 200 || body != "hello /x" {
			t.Errorf("got %d %q, want 200 hello", status, body)
		}
	}
	conn.Close()
	if err := <-done; err != nil {
		t.Errorf("ServeConn = %v, want nil", err)
	}
	if n := s.conns.Load(); n != 0 {
		t.Errorf("%d connections, want 0", n)
	}
}

// A reader that keeps its connection does not hold up a drain.
func TestServeConnDrains(t *testing.T) {
	s := New(Config{Handler: hello, Log: slog.New(slog.DiscardHandler)})
	idle, idleDone := serveConn(t.Context(), s)
	if status, _ := ask(t, idle, get); status != 200 {
		t.Errorf("status = %d, want 200", status)
	}
	s.Drain()
	s.Drain() // a second time changes nothing
	if err := <-idleDone; err != nil {
		t.Errorf("ServeConn of an idle reader = %v, want nil", err)
	}
	late, lateDone := serveConn(t.Context(), s)
	if status, _ := ask(t, late, get); status != 200 {
		t.Errorf("status of a read while draining = %d, want 200", status)
	}
	if err := <-lateDone; err != nil {
		t.Errorf("ServeConn of a late reader = %v, want nil", err)
	}
}

func TestServeConnIsCut(t *testing.T) {
	cause := errors.New("policy changed")
	for _, when := range []string{"idle", "during an answer"} {
		t.Run(when, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(context.Background())
			s := New(Config{Log: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for r.URL.Path == "/endless" {
					if _, err := w.Write(make([]byte, 1<<10)); err != nil {
						return
					}
				}
			})})
			conn, done := serveConn(ctx, s)
			if when == "idle" {
				if status, _ := ask(t, conn, get); status != 200 {
					t.Errorf("status = %d, want 200", status)
				}
			} else {
				if _, err := io.WriteString(conn, "GET /endless HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(conn, make([]byte, 10<<10)); err != nil {
					t.Fatal(err)
				}
			}
			cancel(cause)
			if err := <-done; !errors.Is(err, cause) {
				t.Errorf("ServeConn = %v, want %v", err, cause)
			}
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Errorf("reading on: %v, want the end", err)
			}
		})
	}
}

func TestServeConnLimit(t *testing.T) {
	s := New(Config{Handler: hello, MaxConns: 1, Log: slog.New(slog.DiscardHandler)})
	first, done := serveConn(t.Context(), s)
	if status, _ := ask(t, first, get); status != 200 {
		t.Errorf("status = %d, want 200", status)
	}
	_, done2 := serveConn(t.Context(), s)
	if err := <-done2; !errors.Is(err, ErrTooManyConns) {
		t.Errorf("second ServeConn = %v, want %v", err, ErrTooManyConns)
	}
	first.Close()
	if err := <-done; err != nil {
		t.Errorf("first ServeConn = %v", err)
	}
}
