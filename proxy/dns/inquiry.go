package dns

import (
	"crypto/rand"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// maxSpare is how many sockets are opened at once: entering a pod's namespace
// costs more than they do. They get a port when they are used.
const maxSpare = 4

// inquiry is a query of a client that a resolver was sent, from a socket of its
// own. What came of it makes another try necessary, or is the answer.
type inquiry struct {
	*pending
	write    func(answer []byte) // to the client
	asked    dns.Question
	key      []byte
	same     *flight // of which this leads
	upstream netip.AddrPort
	server   int // index of upstream
	id       uint16
	fd       int
	strays   int // messages that are not the answer
	start    time.Time
}

// inquiries waits for the first answers to queries that came over UDP, on one
// goroutine for all of them, which is there while queries come and for a while
// after. So a query whose first answer will do, and nearly all are such, wakes no
// goroutine but that, nor does it start one; all others go on on their own.
type inquiries struct {
	server *Server

	mu      sync.Mutex
	poll    *os.File // epoll(7) of the sockets; nil without the goroutine
	pollFD  uintptr
	waiting map[int]*inquiry // by socket; maxSockets bounds it
	spare   []int            // sockets that have not been used
	spare4  bool             // they are for IPv4
	used    bool             // since the last alarm
	closed  bool
}

// begin asks the first resolver what is left of a query, if that needs no waiting
// for anything else. It reports whether it has taken the query over.
func (w *inquiries) begin(p *pending, write func(answer []byte)) bool {
	s := w.server
	if p.packet != nil || p.own == nil && s.config.Store != nil {
		return false
	}
	in, message := w.prepare(p, write)
	if in == nil {
		return false
	}
	f := s.forwarder
	select {
	case f.sockets <- struct{}{}:
	default:
		return false
	}
	r, same, first := f.cache().join(in.key, in.start)
	if r != nil || !first {
		<-f.sockets
		return false
	}
	in.same = same
	if err := w.send(in, message); err != nil {
		<-f.sockets
		w.goOn(in, &outcome{of: in.upstream, err: err})
	}
	return true
}

// prepare returns the inquiry of a query and the message to the resolver. It
// returns nil if another way has to be taken.
func (w *inquiries) prepare(p *pending, write func(answer []byte)) (in *inquiry, message []byte) {
	s := w.server
	defer s.recovered()
	f := s.forwarder
	if len(f.Servers) == 0 {
		return nil, nil
	}
	server := int(f.good.Load())
	upstream := f.Servers[server]
	asked := dns.Question{Name: dns.Fqdn(string(p.q.name.text)), Qtype: p.q.qtype, Qclass: p.q.qclass}
	if !f.opens(upstream) || f.Hosts.answer(asked) != nil {
		return nil, nil
	}
	message, err := f.pack(&p.q, asked)
	if err != nil {
		return nil, nil
	}
	_, _ = rand.Read(message[:2]) // never fails
	return &inquiry{
		pending: p, write: write, asked: asked, key: p.q.appendKey(make([]byte, 0, len(p.q.name.wire)+5)), upstream: upstream, server: server,
		id: be16(message), start: time.Now(),
	}, message
}

// send sends a message and begins to wait for the answer.
func (w *inquiries) send(in *inquiry, message []byte) error {
	fd, err := w.socket(in.upstream.Addr())
	if err != nil {
		return err
	}
	if errno := connect(fd, in.upstream); errno != 0 {
		err = os.NewSyscallError("connect", errno)
	} else if errno := send(fd, message); errno != 0 {
		err = os.NewSyscallError("sendto", errno)
	} else {
		in.fd = fd
		err = w.add(in)
	}
	if err != nil {
		closeSocket(fd)
	}
	return err
}

// socket returns a socket for a resolver, with neither port nor peer. It opens
// some more where queries come one after the other.
func (w *inquiries) socket(dst netip.Addr) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, net.ErrClosed
	}
	if w.spare4 != dst.Unmap().Is4() {
		w.closeSpare()
	}
	if last := len(w.spare) - 1; last >= 0 {
		fd := w.spare[last]
		w.spare = w.spare[:last]
		return fd, nil
	}
	var fds [maxSpare]int
	wanted := 1
	if w.used {
		wanted = maxSpare
	}
	n, err := w.server.config.Upstreams.OpenUDP(dst, fds[:wanted])
	if err != nil {
		return 0, err
	}
	w.spare, w.spare4 = append(w.spare[:0], fds[1:n]...), dst.Unmap().Is4()
	return fds[0], nil
}

// closeSpare closes the sockets that were not used. The caller holds the lock.
func (w *inquiries) closeSpare() {
	for _, fd := range w.spare {
		closeSocket(fd)
	}
	w.spare = nil
}

// add begins to wait for an answer.
func (w *inquiries) add(in *inquiry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return net.ErrClosed
	}
	if err := w.run(); err != nil {
		return err
	}
	if err := watch(w.pollFD, in.fd); err != nil {
		return err
	}
	w.waiting[in.fd], w.used = in, true
	return nil
}
