package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
)

// Our client against the server of net/http.
func TestInteropServer(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "10.0.0.1:80" || r.Header.Get("Baggage") != "a=b" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.Header().Set("X-Echo", "yes")
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		io.Copy(flusher{w}, r.Body)
	}))
	srv.EnableHTTP2 = true
	srv.TLS = serverTLS().Clone()
	srv.StartTLS()
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cc, err := Client(t.Context(), conn, clientTLS(), nil)
	if err != nil {
		t.Fatalf("Client() = %v", err)
	}
	defer func() { cc.Close(); <-cc.Done() }()

	if _, err := cc.Open(t.Context(), &Request{Authority: "other:1"}); errorText(err) != "http status: 418 I'm a teapot" {
		t.Errorf("Open() = %v, want status 418", err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			s, err := cc.Open(t.Context(), &Request{Authority: "10.0.0.1:80", Header: Header{{"baggage", "a=b"}}})
			if err != nil {
				t.Errorf("Open() = %v", err)
				return
			}
			if got := s.ResponseHeader().Get("x-echo"); got != "yes" {
				t.Errorf("x-echo = %q, want yes", got)
			}
			checkEcho(t, s, 3<<20)
		})
	}
	all.Wait()
}

// flusher writes a response without buffering.
type flusher struct{ w http.ResponseWriter }

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

// checkEcho sends bytes both ways at once and closes.
func checkEcho(t *testing.T, s interface {
	io.ReadWriteCloser
	CloseWrite() error
}, size int,
) {
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	go func() {
		s.Write(data)
		s.CloseWrite()
	}()
	if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, data) {
		t.Errorf("echoed %d bytes, %v, want %d", len(got), err, size)
	}
	s.Close()
}

// Our server against the client of net/http.
func TestInteropClient(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	defer func() { ln.Close(); all.Wait() }()
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				sc, err := Server(context.Background(), conn, serverTLS(), nil)
				if err != nil {
					t.Errorf("Server() = %v", err)
					return
				}
				if err := sc.Serve(context.Background(), func(ctx context.Context, s *Stream) {
					if s.Request().Authority != "10.0.0.1:80" || s.Request().Header.Get("baggage") != "a=b" {
						s.Reject(http.StatusServiceUnavailable)
						return
					}
					echo(ctx, s)
				}); err != nil {
					t.Errorf("Serve() = %v", err)
				}
			})
		}
	})
	var dialed []net.Conn // one after the other
	defer func() {
		for _, c := range dialed {
			c.Close()
		}
	}()
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	tr := &http.Transport{Protocols: protocols, DialTLSContext: func(_ context.Context, network, _ string) (net.Conn, error) {
		c, err := tls.Dial(network, ln.Addr().String(), clientTLS())
		dialed = append(dialed, c)
		return c, err
	}}
	connect := func(authority string, body io.Reader) (*http.Response, error) {
		return tr.RoundTrip(&http.Request{
			Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: authority}, Host: authority,
			Header: http.Header{"Baggage": {"a=b"}}, Body: io.NopCloser(body),
		})
	}
	for range 3 {
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
		resp, err := connect("10.0.0.1:80", bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || err != nil || !bytes.Equal(got, data) {
			t.Errorf("status %d, echoed %d bytes, %v, want 200 and %d", resp.StatusCode, len(got), err, len(data))
		}
	}
	resp, err := connect("elsewhere:80", bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("CONNECT elsewhere = %v, want 503", resp.Status)
	}
}

// A tunnel inside a stream of another, as through a network gateway.
func TestNestedTunnel(t *testing.T) {
	a, b := tcpPair(t)
	served := make(chan struct{})
	cc, _ := pair(t, a, b, nil, func(ctx context.Context, s *Stream) {
		defer close(served)
		if err := s.Accept(nil); err != nil {
			t.Error(err)
		}
		sc, err := Server(ctx, s, serverTLS(), nil)
		if err != nil {
			t.Errorf("inner Server() = %v", err)
			return
		}
		if err := sc.Serve(ctx, echo); err != nil {
			t.Errorf("inner Serve() = %v", err)
		}
	})
	outer, err := cc.Open(t.Context(), &Request{Authority: "gateway:15008"})
	if err != nil {
		t.Fatal(err)
	}
	inner, err := Client(t.Context(), outer, clientTLS(), nil)
	if err != nil {
		t.Fatalf("inner Client() = %v", err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			s, err := inner.Open(t.Context(), &Request{Authority: "10.0.0.1:80"})
			if err != nil {
				t.Errorf("inner Open() = %v", err)
				return
			}
			checkEcho(t, s, 3<<20)
		})
	}
	all.Wait()
	inner.Close()
	<-inner.Done()
	<-served
}
