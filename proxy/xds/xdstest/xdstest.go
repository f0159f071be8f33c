// Package xdstest owns a scripted control plane for tests: a gRPC server that accepts delta discovery streams and leaves what
// is said on them to the test.
package xdstest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/discoveryapi"
)

// Server is a control plane. Its streams are the test's.
type Server struct {
	discoveryapi.UnimplementedAggregatedDiscoveryServiceServer

	streams chan *Stream
	grpc    *grpc.Server
	ended   chan struct{}

	mu       sync.Mutex
	pipe     *bufconn.Listener
	conns    []net.Conn
	refusal  error // of streams; nil accepts
	attempts []time.Time
}

// New returns a server that is reached through memory alone, so that it can be used in a bubble of synctest. It ends with
// the test.
func New(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{pipe: bufconn.Listen(1 << 20)}
	s.serve(tb, s.pipe)
	return s
}

// NewTLS returns a server on a port of the loopback interface, and its address as HOST:PORT. It ends with the test.
func NewTLS(tb testing.TB, config *tls.Config, opts ...grpc.ServerOption) (*Server, string) {
	tb.Helper()
	lc := net.ListenConfig{}
	ln, err := lc.Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{}
	s.serve(tb, ln, append(opts, grpc.Creds(credentials.NewTLS(config)))...)
	return s, ln.Addr().String()
}

func (s *Server) serve(tb testing.TB, ln net.Listener, opts ...grpc.ServerOption) {
	tb.Helper()
	s.streams = make(chan *Stream, 16)
	s.ended = make(chan struct{})
	s.grpc = grpc.NewServer(append(opts, grpc.ForceServerCodecV2(rawCodec{}), grpc.MaxRecvMsgSize(MaxRequest))...)
	discoveryapi.RegisterAggregatedDiscoveryServiceServer(s.grpc, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.grpc.Serve(ln) })
	tb.Cleanup(func() {
		close(s.ended)
		s.grpc.Stop()
		serving.Wait()
	})
}

// MaxRequest is the largest request that the server takes, in bytes, as istiod does by default.
const MaxRequest = 4 << 20

// Refuse makes the server end every new stream at once with err, without response headers, until it is called with nil.
func (s *Server) Refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = err
}

// Attempts returns when streams were begun, accepted or not.
func (s *Server) Attempts() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.attempts...)
}

// Cut closes all connections without a word. It is for a server made by New.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

// DeltaAggregatedResources holds a stream open for the test.
func (s *Server) DeltaAggregatedResources(g grpc.BidiStreamingServer[discoveryapi.DeltaDiscoveryRequest, discoveryapi.DeltaDiscoveryResponse]) error {
	s.mu.Lock()
	s.attempts = append(s.attempts, time.Now())
	refusal := s.refusal
	s.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	header, _ := metadata.FromIncomingContext(g.Context())
	st := &Stream{Header: header, grpc: g, requests: make(chan *discoveryapi.DeltaDiscoveryRequest), end: make(chan error, 1)}
	select {
	case s.streams <- st:
	case <-s.ended:
		return nil
	}
	var reader sync.WaitGroup
	ctx, cancel := context.WithCancel(g.Context())
	defer cancel()
	failed := make(chan error, 1)
	reader.Go(func() { failed <- st.read(ctx) })
	// Recv ends when the handler returns, so the reader is not waited for.
	select {
	case err := <-st.end:
		return err
	case err := <-failed:
		return err
	case <-s.ended:
		return nil
	}
}

// Accept returns the next stream. It fails the test when there is none for ten seconds.
func (s *Server) Accept(tb testing.TB) *Stream {
	tb.Helper()
	select {
	case st := <-s.streams:
		return st
	case <-time.After(10 * time.Second):
		tb.Fatal("no stream within 10 s")
		return nil
	}
}

// Stream is one stream. It is for one goroutine.
type Stream struct {
	Header   metadata.MD // what came with the call
	grpc     grpc.BidiStreamingServer[discoveryapi.DeltaDiscoveryRequest, discoveryapi.DeltaDiscoveryResponse]
	requests chan *discoveryapi.DeltaDiscoveryRequest
	end      chan error
}

func (st *Stream) read(ctx context.Context) error {
	for {
		r, err := st.grpc.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case st.requests <- r:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Recv returns the next request. It fails the test when there is none for ten seconds.
func (st *Stream) Recv(tb testing.TB) *discoveryapi.DeltaDiscoveryRequest {
	tb.Helper()
	select {
	case r := <-st.requests:
		return r
	case <-time.After(10 * time.Second):
		tb.Fatal("no request within 10 s")
		return nil
	}
}

// Pending returns the next request if there is one already, else nil.
func (st *Stream) Pending() *discoveryapi.DeltaDiscoveryRequest {
	select {
	case r := <-st.requests:
		return r
	default:
		return nil
	}
}

// Send sends a response.
func (st *Stream) Send(tb testing.TB, r *discoveryapi.DeltaDiscoveryResponse) {
	tb.Helper()
	if err := st.grpc.Send(r); err != nil {
		tb.Fatalf("send response: %v", err)
	}
}

// SendBytes sends a response that is encoded already, well or not.
func (st *Stream) SendBytes(tb testing.TB, b []byte) {
	tb.Helper()
	if err := st.grpc.SendMsg(encoded(b)); err != nil {
		tb.Fatalf("send response: %v", err)
	}
}

// Establish sends response headers without a response.
func (st *Stream) Establish(tb testing.TB) {
	tb.Helper()
	if err := st.grpc.SendHeader(nil); err != nil {
		tb.Fatalf("send headers: %v", err)
	}
}

// End ends the stream with a status, nil being success.
func (st *Stream) End(err error) { st.end <- err }

// Channel is the way to a server made by New. It has no metadata.
type Channel struct {
	Server *Server

	mu  sync.Mutex
	err error // of Context
}

// Fail makes Context fail with err until it is called with nil.
func (c *Channel) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// Dial returns a connection of its own.
func (c *Channel) Dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(), grpc.WithNoProxy(), grpc.WithDisableRetry(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := c.Server.pipe.DialContext(ctx)
			if err != nil {
				return nil, err
			}
			c.Server.mu.Lock()
			defer c.Server.mu.Unlock()
			c.Server.conns = append(c.Server.conns, conn)
			return conn, nil
		}))
}

// Context returns ctx, or the error that Fail set.
func (c *Channel) Context(ctx context.Context) (context.Context, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ctx, c.err
}

// encoded is a message as it goes over the wire.
type encoded []byte

// rawCodec is that of protobuf, which also takes what is encoded.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case encoded:
		return mem.BufferSlice{mem.SliceBuffer(v)}, nil
	case proto.Message:
		b, err := proto.Marshal(v)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	return nil, fmt.Errorf("marshal %T", v)
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("unmarshal into %T", v)
	}
	return proto.Unmarshal(data.Materialize(), m)
}
