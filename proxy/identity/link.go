package identity

import (
	"crypto/sha256"
	"errors"
	"log/slog"
	"sync"

	"google.golang.org/grpc"

	"ztunnel/proxy/istiod"
)

// errClosed is what a request gets once the client is closed.
var errClosed = errors.New("the client of the CA is closed")

// link holds the connection to the CA that requests share.
type link struct {
	channel *istiod.Channel
	log     *slog.Logger

	mu     sync.Mutex // guards what follows, and the connections
	conn   *caConn    // for the next request; nil before the first, or if the last one failed
	closed bool
	roots  [sha256.Size]byte // version of the roots that conn was made with
	warned bool              // the file of the roots could not be read, and that was said
}

// caConn is a connection and the requests that use it. One that was replaced is closed by the last of them.
type caConn struct {
	cc       *grpc.ClientConn
	users    int
	replaced bool
}

// close closes the connection. The error can only be that it was closed before.
func (c *caConn) close() { _ = c.cc.Close() }

// acquire returns the connection for a request, which has to release it.
func (l *link) acquire() (*caConn, error) {
	version, err := l.channel.RootsVersion()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	switch {
	case err != nil:
		// The connection at hand may still do; if there is none, the handshake fails and says why.
		if !l.warned {
			l.warned = true
			l.log.Warn("the root certificates of the CA cannot be read; the connection stays", slog.Any("error", err))
		}
	case version != l.roots:
		if l.conn != nil {
			l.log.Info("the root certificates of the CA changed; a new connection is made")
		}
		l.replace(l.conn)
		l.roots, l.warned = version, false
	default:
		l.warned = false
	}
	if l.conn == nil {
		cc, err := l.channel.Dial()
		if err != nil {
			return nil, err
		}
		l.conn = &caConn{cc: cc}
	}
	l.conn.users++
	return l.conn, nil
}

// release ends a request; broken says that the next one should have another connection.
func (l *link) release(c *caConn, broken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.users--
	if broken {
		l.replace(c)
		return
	}
	if c.replaced && c.users == 0 {
		c.close()
	}
}

// replace takes a connection out of use. The caller holds the lock.
func (l *link) replace(c *caConn) {
	if c == nil {
		return
	}
	if l.conn == c {
		l.conn = nil
	}
	c.replaced = true
	if c.users == 0 {
		c.close()
	}
}

// close closes the connection for good.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.conn != nil {
		l.conn.replaced = true
		l.conn.close()
		l.conn = nil
	}
}
