package hbone

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// testTLS are the two ends' configurations, with a certificate of their own.
var testTLS = sync.OnceValues(func() (client, server *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"test"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	next := []string{http2.NextProtoTLS}
	client = &tls.Config{RootCAs: roots, ServerName: "test", NextProtos: next, MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true}
	server = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: next, MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true, SessionTicketsDisabled: true}
	return client, server
})

func clientTLS() *tls.Config { c, _ := testTLS(); return c }
func serverTLS() *tls.Config { _, s := testTLS(); return s }

// tcpPair returns the two ends of a loopback connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialed := make(chan net.Conn, 1)
	go func() {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			panic(err)
		}
		dialed <- c
	}()
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, b = (<-dialed).(*net.TCPConn), accepted.(*net.TCPConn)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// memConn is one end of an in-memory connection with unbounded buffers.
type memConn struct {
	in, out *memBuffer
}

type memBuffer struct {
	mu     sync.Mutex
	cond   *sync.Cond
	data   []byte
	limit  int // writers wait above it, 0: never
	closed bool
	err    error
}

func newMemBuffer() *memBuffer {
	b := &memBuffer{}
	b.cond = sync.NewCond(&b.mu)
	return b
}

func memPair() (a, b *memConn) {
	x, y := newMemBuffer(), newMemBuffer()
	return &memConn{x, y}, &memConn{y, x}
}

func (c *memConn) Read(p []byte) (int, error) {
	b := c.in
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.data) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		if b.closed {
			return 0, io.EOF
		}
		b.cond.Wait()
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	b.cond.Broadcast()
	return n, nil
}

func (c *memConn) Write(p []byte) (int, error) {
	b := c.out
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.limit > 0 && len(b.data) > b.limit && !b.closed {
		b.cond.Wait()
	}
	if b.closed {
		return 0, net.ErrClosed
	}
	b.data = append(b.data, p...)
	b.cond.Broadcast()
	return len(p), nil
}

// Close ends both directions.
func (c *memConn) Close() error { c.in.close(net.ErrClosed); c.out.close(nil); return nil }

func (c *memConn) CloseWrite() error { c.out.close(nil); return nil }

func (b *memBuffer) close(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed, b.err = true, err
	}
	b.cond.Broadcast()
}

func (c *memConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *memConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *memConn) SetDeadline(time.Time) error      { return nil }
func (c *memConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *memConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// pair joins our client and our server over two ends of a connection. It is
// closed when the test ends.
func pair(t testing.TB, a, b net.Conn, cfg *Config, handle func(context.Context, *Stream)) (*ClientConn, *ServerConn) {
	t.Helper()
	served := make(chan struct{})
	server := make(chan *ServerConn, 1)
	go func() {
		defer close(served)
		sc, err := Server(context.Background(), b, serverTLS(), cfg)
		if err != nil {
			t.Errorf("Server() = %v", err)
			close(server)
			return
		}
		server <- sc
		_ = sc.Serve(context.Background(), handle)
	}()
	cc, err := Client(t.Context(), a, clientTLS(), cfg)
	if err != nil {
		t.Fatalf("Client() = %v", err)
	}
	t.Cleanup(func() {
		cc.Abort(nil)
		<-cc.Done()
		<-served
	})
	return cc, <-server
}

// counts are a relay's counters.
type counts struct{ to, from atomic.Uint64 }

// relayTo accepts a stream and joins it with the far end of app.
func relayTo(app func() *net.TCPConn) func(context.Context, *Stream) {
	return func(ctx context.Context, s *Stream) {
		if s.Accept(nil) != nil {
			return
		}
		var n counts
		_ = s.Relay(ctx, app(), &n.to, &n.from, Upstream)
	}
}

// echoTCP is a server that sends back what it gets, and dial to it.
func echoTCP(t testing.TB) func() *net.TCPConn {
	t.Helper()
	return serveTCP(t, func(c *net.TCPConn) { io.Copy(c, c) })
}

// serveTCP is a server on the loopback interface.
func serveTCP(t testing.TB, serve func(*net.TCPConn)) func() *net.TCPConn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return func() *net.TCPConn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			panic(err)
		}
		return c.(*net.TCPConn)
	}
}
