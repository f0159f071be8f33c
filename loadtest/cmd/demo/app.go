package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"ztunnel/loadtest/mesh"
)

// apps are the applications of the pods. They run in this process, with sockets
// in the pods' namespaces.
type apps struct {
	running sync.WaitGroup

	mu     sync.Mutex
	open   map[io.Closer]struct{}
	closed bool
}

// add remembers what close must close, and tells whether that is still ahead.
func (a *apps) add(c io.Closer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	if a.open == nil {
		a.open = map[io.Closer]struct{}{}
	}
	a.open[c] = struct{}{}
	return true
}

func (a *apps) remove(c io.Closer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, c)
}

// close ends all applications and waits for them.
func (a *apps) close() {
	a.mu.Lock()
	a.closed = true
	for c := range a.open {
		c.Close()
	}
	a.mu.Unlock()
	a.running.Wait()
}

// goodbye is what the echo application says when its client has ended, so that
// answers are longer than questions.
func goodbye(n int64) string { return fmt.Sprintf("that was %d bytes\n", n) }

// echo starts an application that answers what it gets, and then says goodbye.
func (a *apps) echo(ctx context.Context, ns *mesh.Namespace, port uint16) error {
	ln, err := ns.Listen(ctx, port)
	if err != nil {
		return err
	}
	if !a.add(ln) {
		return ln.Close()
	}
	a.running.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return // closed
			}
			a.running.Go(func() { a.answer(c) })
		}
	})
	return nil
}

func (a *apps) answer(c *net.TCPConn) {
	defer c.Close()
	if !a.add(c) {
		return
	}
	defer a.remove(c)
	n, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) // not spliced: this is an application
	if err == nil {
		_, _ = io.WriteString(c, goodbye(n)) // its client sees if it is missing
	}
}

// web starts an application for people with a browser.
func (a *apps) web(ctx context.Context, ns *mesh.Namespace, port uint16) error {
	ln, err := ns.Listen(ctx, port)
	if err != nil {
		return err
	}
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "Here is %s. You came from %s.\n", ns.Name, r.RemoteAddr)
		}),
	}
	if !a.add(server) {
		return ln.Close()
	}
	a.running.Go(func() { _ = server.Serve(ln) }) // ends with close
	return nil
}

// exchange is one connection to the echo application, complete.
type exchange struct {
	local    netip.AddrPort // of the client
	to       netip.AddrPort
	request  int // bytes
	response int // bytes
	took     time.Duration
}

// payload is n bytes of which nothing repeats but the secret, at its begin,
// middle and end.
func payload(secret []byte, n int) []byte {
	b := make([]byte, n)
	random := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = random.Read(b) // never fails
	for _, at := range []int{0, n/2 - len(secret)/2, n - len(secret)} {
		copy(b[at:], secret)
	}
	return b
}

// say sends a request to the echo application, and checks its answer.
func say(ctx context.Context, from *mesh.Namespace, to netip.AddrPort, request []byte) (exchange, error) {
	start := time.Now()
	c, err := from.Dial(ctx, to)
	if err != nil {
		return exchange{}, err
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
		return exchange{}, fmt.Errorf("%s talks to %s: %w", from.Name, to, err)
	}
	want := append(bytes.Clone(request), goodbye(int64(len(request)))...)
	if !bytes.Equal(answer, want) {
		return exchange{}, fmt.Errorf("%s talks to %s: the answer to %d bytes is %d others, want the same and %q",
			from.Name, to, len(request), len(answer), goodbye(int64(len(request))))
	}
	return exchange{
		local: c.LocalAddr().(*net.TCPAddr).AddrPort(), to: to,
		request: len(request), response: len(answer), took: time.Since(start),
	}, nil
}

// session is a connection to the echo application that stays open.
type session struct{ *net.TCPConn }

func open(ctx context.Context, from *mesh.Namespace, to netip.AddrPort) (*session, error) {
	c, err := from.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	s := &session{c}
	if err := s.ping(); err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

// ping sends a few bytes and waits for them to come back.
func (s *session) ping() error {
	if err := s.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
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
	return s.SetDeadline(time.Time{})
}

// finish ends the connection in order and checks that nothing was lost.
func (s *session) finish(pings int) error {
	defer s.Close()
	if err := errors.Join(s.SetDeadline(time.Now().Add(5*time.Second)), s.CloseWrite()); err != nil {
		return err
	}
	rest, err := io.ReadAll(s)
	if err != nil {
		return fmt.Errorf("last words: %w", err)
	}
	if want := goodbye(int64(4 * pings)); string(rest) != want {
		return fmt.Errorf("last words are %q, want %q", rest, want)
	}
	return nil
}
