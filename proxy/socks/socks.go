// Package socks owns the SOCKS5 handshake of port 15080: it learns from a client of the pod where it wants to go, and hands
// the connection over to who carries it there.
//
// It takes a subset of RFC 1928: connections without authentication, to addresses and to names that an injected function
// resolves. Success is told before anything is dialled, as in the reference: how the connection fares then shows as its end
// and in the access log.
package socks

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// Defaults of Config.
const (
	DefaultTimeout        = 15 * time.Second
	DefaultMaxConnections = 64 << 10
)

// What a client that is refused may still send before its connection is reset: it may have sent the rest of its request, and
// a reset could overtake the reply.
const (
	lingerTime  = time.Second
	lingerBytes = 64 << 10
)

// Config is what a Server is made of. It is not changed afterwards.
type Config struct {
	// Resolve returns the addresses of a host, of one family. Nil refuses names.
	Resolve func(ctx context.Context, host string, ipv6 bool) ([]netip.Addr, error)
	// Proxy carries a connection from a client to its target, and closes it.
	Proxy func(ctx context.Context, conn *net.TCPConn, client, target netip.AddrPort, start time.Time)
	// Refused is told of clients that are refused, after the reply. The error has a method RejectReason.
	Refused func(client netip.AddrPort, err error)
	// ErrorText gives I/O errors the words of the log; nil means those of the error.
	ErrorText func(error) string
	// Timeout bounds the whole negotiation, the lookup of a name included. Zero means DefaultTimeout.
	Timeout time.Duration
	// MaxConnections bounds the open connections, also those that are handed over. What exceeds it is closed and counted as
	// refused. Zero means DefaultMaxConnections.
	MaxConnections int
	Log            *slog.Logger // scope proxy::socks5
}

// Server serves the SOCKS clients of one pod. It holds nothing while there are none. Use New.
type Server struct {
	Config
	open atomic.Int64
}

// New returns a server. It starts nothing.
func New(c Config) *Server {
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.MaxConnections = cmp.Or(c.MaxConnections, DefaultMaxConnections)
	if c.ErrorText == nil {
		c.ErrorText = error.Error
	}
	return &Server{Config: c}
}

// Serve negotiates with a client and hands its connection over, and closes it in any case. It returns when the connection has
// ended. The end of ctx ends the negotiation at once.
func (s *Server) Serve(ctx context.Context, conn *net.TCPConn, client netip.AddrPort) {
	defer conn.Close()
	defer s.open.Add(-1)
	if s.open.Add(1) > int64(s.MaxConnections) {
		s.Refused(client, &limitError{s.MaxConnections})
		return
	}
	target, err := s.negotiate(ctx, conn, client)
	if err != nil {
		s.Log.Warn("failed to negotiate socks connection: " + err.Error())
		s.Refused(client, err)
		return
	}
	s.Proxy(ctx, conn, client, target, time.Now())
}

// negotiate returns where the client wants to go, when it has been told the success or else the failure. The error is an
// *Error.
func (s *Server) negotiate(ctx context.Context, conn *net.TCPConn, client netip.AddrPort) (netip.AddrPort, error) {
	pod := ctx
	ctx, cancel := context.WithTimeoutCause(pod, s.Timeout, os.ErrDeadlineExceeded)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) }) // a closed connection needs none
	n := &negotiation{Config: &s.Config, rw: conn, client: client.Addr()}
	target, err := n.target(ctx)
	if err == nil {
		if _, writeErr := conn.Write(reply(Succeeded)); writeErr != nil {
			err = s.ioError(writeErr)
		}
	}
	if !stop() && err == nil { // at the last moment
		err = s.ioError(os.ErrDeadlineExceeded)
	}
	if err != nil {
		err = ended(pod, err)
		refuse(pod, conn, err)
	}
	return target, err
}

// past is a time that has passed.
var past = time.Unix(1, 0)

// ended tells a negotiation that was ended with the pod from one that took too long.
func ended(pod context.Context, err error) error {
	cause := context.Cause(pod)
	if e, ok := errors.AsType[*Error](err); !ok || e.Reason != ReasonTimeout || cause == nil {
		return err
	}
	return &Error{Code: General, Reason: ReasonDraining, Text: cause.Error(), Err: cause}
}

// refuse tells the client that there will be no connection. Its errors are nobody's: the client has its refusal either way.
func refuse(pod context.Context, conn *net.TCPConn, err error) {
	code := General
	if e, ok := errors.AsType[*Error](err); ok {
		code = e.Code
	}
	_ = conn.SetDeadline(time.Now().Add(lingerTime))
	if _, err := conn.Write(reply(code)); err != nil {
		return
	}
	defer context.AfterFunc(pod, func() { _ = conn.SetDeadline(past) })()
	if conn.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, conn, lingerBytes)
	}
}
