package dns

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// packets are buffers for answers of resolvers.
var packets = sync.Pool{New: func() any { return new([maxQuery]byte) }}

// serveUDP answers what arrives at c until it is closed.
func (s *Server) serveUDP(c *net.UDPConn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	r := udpReader{server: s, conn: c, raw: rc}
	if bound, ok := c.LocalAddr().(*net.UDPAddr); ok && bound.IP.IsUnspecified() {
		answerFrom(c)
		return ignoreClosed(r.serveAnywhere())
	}
	return ignoreClosed(r.serve())
}

// udpReader reads one socket. It has memory for a query while there is something
// to read, and none while it waits.
type udpReader struct {
	server *Server
	conn   *net.UDPConn
	raw    syscall.RawConn
	sc     *scratch // nil while there is nothing to read
}

// receive reads a query, if there is one.
func (r *udpReader) receive(fd uintptr) bool {
	if r.sc == nil {
		r.sc = scratches.Get().(*scratch)
	}
	if r.sc.n, r.sc.errno = receiveFrom(fd, r.sc.in[:], &r.sc.peer); r.sc.errno != syscall.EAGAIN {
		return true
	}
	r.sc.release()
	r.sc = nil
	return false
}

// send sends the answer to the query that was read last.
func (r *udpReader) send(fd uintptr) { r.sc.errno = sendTo(fd, r.sc.out, &r.sc.peer) }

// serve answers queries at a socket that has one address. Those that can be
// answered at once are, one after the other; others go to goroutines of their own.
func (r *udpReader) serve() error {
	receive, send := r.receive, r.send
	for {
		if err := r.raw.Read(receive); err != nil {
			return err
		}
		if r.sc.errno != 0 {
			r.failed("reading a query failed", r.sc.errno) // of an earlier answer, by ICMP
			continue
		}
		client := r.sc.peer.addrPort()
		if !answerable(client) {
			continue
		}
		answer, rest := r.server.respond(r.sc, overUDP, r.sc.in[:r.sc.n], client.Addr())
		if rest != nil {
			r.finish(rest, r.writerTo(client))
		}
		if answer == nil {
			continue
		}
		err := r.raw.Control(send)
		if err == nil && r.sc.errno == syscall.EAGAIN { // it has to wait for room
			_, err = r.conn.WriteToUDPAddrPort(answer, client)
		} else if err == nil && r.sc.errno != 0 {
			err = r.sc.errno
		}
		if err != nil {
			r.failed("answering a query failed", err)
		}
	}
}

// writerTo returns what sends an answer to the client whose query was read last,
// and waits for room if it must.
func (r *udpReader) writerTo(client netip.AddrPort) func(answer []byte) {
	to := r.sc.peer
	return func(answer []byte) {
		var errno syscall.Errno
		err := r.raw.Control(func(fd uintptr) { errno = sendTo(fd, answer, &to) })
		if err == nil && errno == syscall.EAGAIN {
			_, err = r.conn.WriteToUDPAddrPort(answer, client)
		} else if err == nil && errno != 0 {
			err = errno
		}
		if err != nil {
			r.failed("answering a query failed", err)
		}
	}
}

// failed logs what clients can bring about.
func (r *udpReader) failed(what string, err error) {
	r.server.config.Log.Debug(what, "error", err)
}

// serveAnywhere answers queries at a socket that is bound to all addresses, each
// from the one that it was sent to.
func (r *udpReader) serveAnywhere() error {
	for {
		if err := awaitPacket(r.raw); err != nil {
			return err
		}
		sc := scratches.Get().(*scratch)
		n, session, err := dns.ReadFromSessionUDP(r.conn, sc.in[:])
		if err != nil {
			sc.release()
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			r.failed("reading a query failed", err) // of an earlier answer, by ICMP
			continue
		}
		write := func(answer []byte) {
			if _, err := dns.WriteToSessionUDP(r.conn, answer, session); err != nil {
				r.failed("answering a query failed", err)
			}
		}
		answer, rest := r.server.respond(sc, overUDP, sc.in[:n], addrOf(session.RemoteAddr()))
		if rest != nil {
			r.finish(rest, write)
		} else if answer != nil {
			write(answer)
		}
		sc.release()
	}
}

// finish answers a query that has to wait.
func (r *udpReader) finish(rest *pending, write func(answer []byte)) {
	s := r.server
	if s.inquiries.begin(rest, write) {
		return
	}
	s.start(func() {
		if answer := s.finish(s.ctx, rest); answer != nil {
			write(answer)
		}
	})
}

// answerable reports whether an address can be that of a client.
func answerable(client netip.AddrPort) bool {
	return client.Port() != 0 && client.Addr().IsValid() && !client.Addr().IsUnspecified() && client.Addr() != broadcast
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// answerFrom makes answers leave from the address that the query was sent to,
// also at a socket that is bound to all addresses.
func answerFrom(c *net.UDPConn) {
	// One of the two fails, by the family of the socket.
	_ = ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	_ = ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
}
