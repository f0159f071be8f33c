package hbone

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
)

// poolServers dials real tunnels to servers that echo, and counts them.
type poolServers struct {
	t     *testing.T
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns []*ServerConn
}

func (p *poolServers) dial(ctx context.Context, _ Key) (*ClientConn, error) {
	a, b := tcpPair(p.t)
	p.wg.Go(func() {
		sc, err := Server(context.Background(), b, serverTLS(), &Config{})
		if err != nil {
			p.t.Errorf("Server() = %v", err)
			return
		}
		p.mu.Lock()
		p.conns = append(p.conns, sc)
		p.mu.Unlock()
		_ = sc.Serve(context.Background(), func(_ context.Context, s *Stream) {
			if s.Accept(nil) == nil {
				_, _ = io.Copy(s, s)
				_ = s.CloseWrite()
			}
		})
	})
	return Client(ctx, a, clientTLS(), &Config{})
}

func (p *poolServers) list() []*ServerConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*ServerConn(nil), p.conns...)
}

// The pool over the real engine: sharing, a second tunnel, reuse, a GOAWAY, and the end of everything.
func TestPoolTunnels(t *testing.T) {
	servers := &poolServers{t: t}
	p := NewPool(PoolConfig{MaxStreams: 2, Dial: servers.dial})
	open := func() *Stream {
		t.Helper()
		s, err := p.Open(t.Context(), testKey(1), &Request{Authority: "10.0.0.1:80"})
		if err != nil {
			t.Fatalf("Open = %v, want a stream", err)
		}
		if _, err := s.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return s
	}
	end := func(s *Stream) {
		t.Helper()
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("Read = %d, %v, want EOF", n, err)
		}
		s.Close()
	}
	var streams []*Stream
	for range 4 {
		streams = append(streams, open())
	}
	if n := len(servers.list()); n != 2 {
		t.Fatalf("%d tunnels for 4 streams, want 2", n)
	}
	end(streams[0])
	end(streams[3])
	streams[0], streams[3] = open(), open()
	if s := p.Stats(); s.Active != 2 || s.Streams != 4 || len(servers.list()) != 2 {
		t.Errorf("Stats() = %+v with %d tunnels, want 4 streams on 2", s, len(servers.list()))
	}
	for _, sc := range servers.list() {
		sc.Drain()
	}
	for _, s := range streams { // the old ones go on to their end
		end(s)
	}
	last := open()
	if n := len(servers.list()); n != 3 {
		t.Errorf("%d tunnels after a drain, want 3", n)
	}
	p.Close()
	if _, err := io.ReadAll(last); err == nil {
		t.Error("a stream outlived its pool")
	}
	last.Close()
	servers.wg.Wait()
}
