package dns

import (
	"errors"
	"net"
	"sync"
	"syscall"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// packets are buffers for queries. They are held from the arrival of a query to
// its end, not while a socket is idle: a node has two sockets for every pod.
var packets = sync.Pool{New: func() any { return new([maxQuery]byte) }}

// serveUDP answers what arrives at c until it is closed.
func (s *Server) serveUDP(c *net.UDPConn) error {
	answerFrom(c)
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	for {
		if err := awaitPacket(rc); err != nil {
			return ignoreClosed(err)
		}
		buf := packets.Get().(*[maxQuery]byte)
		n, from, err := dns.ReadFromSessionUDP(c, buf[:])
		if err != nil {
			packets.Put(buf)
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.config.Log.Debug("reading a query failed", "error", err) // of an earlier answer, by ICMP
			continue
		}
		s.serveQuery(buf, n, func(answer []byte) error {
			_, err := dns.WriteToSessionUDP(c, answer, from)
			return err
		})
	}
}

// serveQuery answers the query in a buffer, which it owns, on another goroutine.
func (s *Server) serveQuery(buf *[maxQuery]byte, n int, write func([]byte) error) {
	serve := func() {
		defer packets.Put(buf)
		answer := s.respond("udp", buf[:n])
		if answer == nil {
			return
		}
		if err := write(answer); err != nil {
			s.config.Log.Debug("answering a query failed", "error", err)
		}
	}
	if s.outstanding.Load() >= maxOutstanding {
		serve() // it is only refused
		return
	}
	s.serving.Go(serve)
}

// answerFrom makes answers leave from the address that the query was sent to,
// also at a socket that is bound to all addresses. At others they do anyway.
func answerFrom(c *net.UDPConn) {
	if bound, ok := c.LocalAddr().(*net.UDPAddr); ok && !bound.IP.IsUnspecified() {
		return
	}
	// One of the two fails, by the family of the socket.
	_ = ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	_ = ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
}

// awaitPacket returns when there is something to read, and reads nothing.
func awaitPacket(rc syscall.RawConn) error {
	return rc.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
}
