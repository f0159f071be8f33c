package dns

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"
)

// Bounds of the pause after a failed accept, as without free descriptors.
const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// serveTCP serves the clients that connect to ln until it is closed. Above the
// limit they wait in the kernel's queue.
func (s *Server) serveTCP(ln *net.TCPListener) {
	places := make(chan struct{}, maxConns)
	var pause time.Duration
	for {
		select {
		case places <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		c, err := ln.AcceptTCP()
		switch {
		case err == nil:
			pause = 0
			s.serving.Go(func() {
				defer func() { <-places }()
				s.serveConn(c)
			})
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		<-places
		s.config.Log.Debug("accepting a connection failed", "error", err)
		pause = min(max(2*pause, acceptPauseMin), acceptPauseMax)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
		}
		timer.Stop()
	}
}

// serveConn answers the queries of one connection, one after the other.
func (s *Server) serveConn(c *net.TCPConn) {
	defer c.Close()
	if !s.remember(c) {
		return
	}
	defer s.forget(c)
	client := addrOf(c.RemoteAddr())
	for range maxTCPQueries {
		_ = c.SetReadDeadline(time.Now().Add(idleTimeout))
		query, err := readMessage(c)
		if err != nil {
			return // the client has gone, or is idle
		}
		_ = c.SetWriteDeadline(time.Now().Add(workloadWait + queryTimeout + writeTimeout))
		if err := s.serveTCPQuery(c, query, client); err != nil {
			s.config.Log.Debug("answering a query failed", "error", err)
			return
		}
	}
}

// serveTCPQuery answers one query.
func (s *Server) serveTCPQuery(w io.Writer, query []byte, client netip.Addr) error {
	sc := scratches.Get().(*scratch)
	answer, rest := s.respond(sc, overTCP, query, client)
	answer = frame(answer)
	sc.release()
	if rest != nil {
		answer = frame(s.finish(s.ctx, rest))
	}
	_, err := w.Write(answer)
	return err
}

// frame puts its length in front of a copy of a message. It returns nil for none.
func frame(message []byte) []byte {
	if message == nil {
		return nil
	}
	framed := make([]byte, 2, 2+len(message))
	binary.BigEndian.PutUint16(framed, uint16(len(message)))
	return append(framed, message...)
}

// addrOf is the address of a client, the invalid one if it has none.
func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// remember makes Stop close c. It returns false if the server is stopped.
func (s *Server) remember(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	if s.conns == nil {
		s.conns = make(map[net.Conn]struct{})
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}
