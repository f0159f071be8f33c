package dns

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
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
	for range maxTCPQueries {
		query, err := readQuery(c)
		if err != nil {
			return // the client has gone, or is idle
		}
		answer := s.respond("tcp", query)
		if answer == nil {
			continue
		}
		_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			s.config.Log.Debug("answering a query failed", "error", err)
			return
		}
	}
}

// readQuery reads one message behind its length. Memory grows with what has
// arrived, not with what is announced.
func readQuery(c *net.TCPConn) ([]byte, error) {
	_ = c.SetReadDeadline(time.Now().Add(idleTimeout))
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint16(length[:]))
	query, err := io.ReadAll(io.LimitReader(c, n))
	if err == nil && int64(len(query)) < n {
		err = io.ErrUnexpectedEOF
	}
	return query, err
}

// remember makes Stop close c. It returns false if the server is stopped.
func (s *Server) remember(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}
