package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"ztunnel/loadtest/mesh"
)

// Exchange is one connection to the echo application, complete.
type Exchange struct {
	Local, To         netip.AddrPort // of the client
	Request, Response int            // bytes
	Took              time.Duration
}

// Payload is n bytes of which nothing repeats but the secret, at its begin,
// middle and end. The secret must not be longer than n.
func Payload(secret []byte, n int) []byte {
	b := make([]byte, n)
	random := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = random.Read(b) // never fails
	for _, at := range []int{0, n/2 - len(secret)/2, n - len(secret)} {
		copy(b[at:], secret)
	}
	return b
}

// Say sends a request to the echo application, and checks its answer. The end of
// ctx ends it.
func Say(ctx context.Context, from *mesh.Namespace, to netip.AddrPort, request []byte) (Exchange, error) {
	start := time.Now()
	c, err := from.Dial(ctx, to)
	if err != nil {
		return Exchange{}, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var sending sync.WaitGroup
	var sendErr error
	sending.Go(func() {
		if _, sendErr = c.Write(request); sendErr == nil {
			sendErr = c.CloseWrite()
		}
	})
	answer, err := io.ReadAll(c)
	sending.Wait()
	if err := errors.Join(sendErr, err); err != nil {
		return Exchange{}, fmt.Errorf("%s talks to %s: %w", from.Name, to, err)
	}
	want := append(bytes.Clone(request), goodbye(int64(len(request)))...)
	if !bytes.Equal(answer, want) {
		return Exchange{}, fmt.Errorf("%s talks to %s: the answer to %d bytes is %d others, want the same and %q",
			from.Name, to, len(request), len(answer), goodbye(int64(len(request))))
	}
	return Exchange{
		Local: c.LocalAddr().(*net.TCPAddr).AddrPort(), To: to,
		Request: len(request), Response: len(answer), Took: time.Since(start),
	}, nil
}

// pingLimit is how long an answer may take.
const pingLimit = 5 * time.Second

// Session is a connection to the echo application that stays open. It is for one
// goroutine.
type Session struct {
	*net.TCPConn
	// Pings is how many were answered.
	Pings int
}

// Open opens a session and pings once. The caller must close it.
func Open(ctx context.Context, from *mesh.Namespace, to netip.AddrPort) (*Session, error) {
	c, err := from.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	s := &Session{TCPConn: c}
	if err := s.Ping(); err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

// Ping sends a few bytes and waits for them to come back.
func (s *Session) Ping() error {
	if err := s.SetDeadline(time.Now().Add(pingLimit)); err != nil {
		return err
	}
	if _, err := io.WriteString(s, "ping"); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	var answer [4]byte
	if _, err := io.ReadFull(s, answer[:]); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	if string(answer[:]) != "ping" {
		return fmt.Errorf("ping is answered %q", answer)
	}
	s.Pings++
	return s.SetDeadline(time.Time{})
}

// Finish ends the connection in order and checks that nothing was lost.
func (s *Session) Finish() error {
	defer s.Close()
	if err := errors.Join(s.SetDeadline(time.Now().Add(pingLimit)), s.CloseWrite()); err != nil {
		return err
	}
	rest, err := io.ReadAll(s)
	if err != nil {
		return fmt.Errorf("last words: %w", err)
	}
	if want := goodbye(int64(4 * s.Pings)); string(rest) != want {
		return fmt.Errorf("last words are %q, want %q", rest, want)
	}
	return nil
}

// Refused tells whether an error is that of a connection that the other side
// has ended without a word.
func Refused(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// UntilCut waits until the connection is ended by the other side and tells how
// long after start that was; limit bounds it.
func UntilCut(c net.Conn, start time.Time, limit time.Duration) (time.Duration, error) {
	if err := c.SetReadDeadline(start.Add(limit)); err != nil {
		return 0, err
	}
	n, err := c.Read(make([]byte, 1))
	if n > 0 {
		return 0, errors.New("a byte came, want the end")
	}
	if !errors.Is(err, io.EOF) && !Refused(err) {
		return 0, fmt.Errorf("not cut after %s: %w", limit, err)
	}
	return time.Since(start), nil
}

// Retry tries until it works, or ctx ends; then it returns the last error.
func Retry(ctx context.Context, every time.Duration, try func() error) error {
	poll := time.NewTicker(every)
	defer poll.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return err
		}
	}
}
