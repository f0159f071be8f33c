// Package app has the applications of a one-machine mesh: servers that run in
// this process with sockets in the pods' namespaces, and the clients that talk
// to them and check every byte.
package app

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"ztunnel/loadtest/mesh"
)

// Apps are running servers. The zero value has none. Its methods may be called
// concurrently.
type Apps struct {
	running sync.WaitGroup

	mu     sync.Mutex
	open   map[io.Closer]struct{}
	closed bool
}

// add remembers what Close must close, and tells whether that is still ahead.
func (a *Apps) add(c io.Closer) bool {
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

func (a *Apps) remove(c io.Closer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, c)
}

// Close ends all servers and their connections, and waits for them.
func (a *Apps) Close() {
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

// Echo starts a server that answers what it gets, and then says how much that
// was. It ends with Close.
func (a *Apps) Echo(ctx context.Context, ns *mesh.Namespace, port uint16) error {
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

func (a *Apps) answer(c *net.TCPConn) {
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

// Web starts a server for people with a browser. It ends with Close.
func (a *Apps) Web(ctx context.Context, ns *mesh.Namespace, port uint16) error {
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
	a.running.Go(func() { _ = server.Serve(ln) }) // ends with Close
	return nil
}
