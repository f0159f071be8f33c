package httpd

import (
	"bytes"
	"container/list"
	"errors"
	"net"
	"sync"
)

// limited keeps the number of connections within the limit of the server.
type limited struct {
	net.Listener
	server *Server
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.server.enter() {
			return &counted{Conn: conn, server: l.server}, nil
		}
		l.server.refused.Add(1)
		if !l.makeRoom() {
			conn.Close()
			continue
		}
		return &counted{Conn: conn, server: l.server}, nil
	}
}

// makeRoom closes a connection that waits and enters another in its place.
func (l *limited) makeRoom() bool {
	for l.server.waiting.closeOldest() {
		if l.server.enter() {
			return true
		}
	}
	return false
}

// waiting are the connections that wait for their clients to send a request.
// Clients that send none, or slowly, cannot keep others out.
type waiting struct {
	mu    sync.Mutex
	conns list.List // of *counted, the one that waits longest first
}

// note says whether a connection waits from now on.
func (w *waiting) note(c *counted, waits bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.place != nil {
		w.conns.Remove(c.place)
		c.place = nil
	}
	if waits {
		c.place = w.conns.PushBack(c)
	}
}

// closeOldest closes the connection that has waited longest, if one waits.
func (w *waiting) closeOldest() bool {
	w.mu.Lock()
	first := w.conns.Front()
	if first == nil {
		w.mu.Unlock()
		return false
	}
	c := w.conns.Remove(first).(*counted)
	c.place = nil
	w.mu.Unlock()
	_ = c.Close() // of a client that did not send
	return true
}

// badVersion begins what net/http writes by itself to a client of a version of
// HTTP that does not exist. It gets the 400 that others get for what is no HTTP.
var (
	badVersion = []byte("HTTP/1.1 505 ")
	badRequest = []byte("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request")
)

// counted leaves the count of its server when it is closed.
type counted struct {
	net.Conn
	server *Server
	once   sync.Once
	place  *list.Element // in server.waiting, under its lock
}

func (c *counted) Close() error {
	c.once.Do(func() { c.server.conns.Add(-1) })
	return c.Conn.Close()
}

func (c *counted) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, badVersion) {
		_, err := c.Conn.Write(badRequest)
		return len(p), err
	}
	return c.Conn.Write(p)
}

// CloseWrite lets net/http end a connection without losing what it wrote.
func (c *counted) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}
