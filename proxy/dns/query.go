package dns

import (
	"context"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"ztunnel/proxy/workload"
)

// scratch is the memory that one query needs while it is worked on.
type scratch struct {
	in       [maxQuery]byte // a message of peer
	n        int            // bytes of it
	peer     peer
	errno    syscall.Errno // of the call to read it or to answer
	out      []byte
	q        question
	key      []byte
	host     []byte
	services []*workload.Service
	addrs    []netip.Addr
}

// scratches are held from the arrival of a query to its answer or its forwarding,
// not while a socket is idle: a node has two sockets for every pod.
var scratches = sync.Pool{New: func() any { return new(scratch) }}

// maxPooled is the largest memory for an answer that is kept for the next one.
const maxPooled = 16 << 10

func (sc *scratch) release() {
	if cap(sc.out) > maxPooled {
		sc.out = nil
	}
	scratches.Put(sc)
}

// pending is a query that cannot be answered at once.
type pending struct {
	q      question
	over   transport
	client netip.Addr
	own    *workload.Workload // nil while it is not known
	packet []byte             // to be forwarded as it is; nil for a plain query
}

// respond answers a message of a client that is in packet. The answer is in the
// scratch memory. Without an answer there may be something to finish, on another
// goroutine if the caller has no time; with neither, the message is not answered.
func (s *Server) respond(sc *scratch, over transport, packet []byte, client netip.Addr) (answer []byte, rest *pending) {
	defer s.recovered()
	q := &sc.q
	sc.out = sc.out[:0]
	is := q.read(packet)
	switch is {
	case ignored:
		return nil, nil
	case malformed:
		sc.out = q.appendError(sc.out, dns.RcodeFormatError)
		return sc.out, nil
	case notImplemented:
		s.config.Log.Debug("a query of an unknown kind", "opcode", q.opcode())
		sc.out = q.appendError(sc.out, dns.RcodeNotImplemented)
		return sc.out, nil
	case refused:
		sc.out = q.appendError(sc.out, dns.RcodeServerFailure)
		return sc.out, nil
	case foreign:
		rest = &pending{packet: slices.Clone(packet)}
	case plain:
	}
	own := s.own(client)
	if own != nil || s.config.Store == nil {
		if answer = s.atOnce(sc, over, own, rest != nil); answer != nil {
			return answer, nil
		}
	}
	if s.outstanding.Add(1) > maxOutstanding {
		s.outstanding.Add(-1)
		s.config.Metrics.refused.Add(1)
		sc.out = q.appendError(sc.out, dns.RcodeServerFailure)
		return sc.out, nil
	}
	if rest == nil {
		rest = new(pending)
	}
	rest.q, rest.over, rest.client, rest.own = q.clone(), over, client, own
	return nil, rest
}

// atOnce returns the answer to a query if that is known here: for a name of the
// mesh, or one that was asked for before. It is nil if it is not. What is to be
// handed on whole was not asked for before.
func (s *Server) atOnce(sc *scratch, over transport, own *workload.Workload, whole bool) []byte {
	q := &sc.q
	if q.asksForAddresses() || q.opcode() == dns.OpcodeNotify {
		if m, found := s.find(sc, &q.name, own); found {
			return s.answer(sc, over, own, m)
		}
	}
	if whole {
		return nil
	}
	now := time.Now()
	sc.key = q.appendKey(sc.key[:0])
	r := s.forwarder.keptFor(sc.key, now)
	if r == nil {
		return nil
	}
	s.forwarded(q, over, own, r, nil, time.Since(now))
	sc.out = q.appendReply(sc.out, r, q.limit(over == overTCP), now)
	return sc.out
}

// answer answers for a service of the mesh.
func (s *Server) answer(sc *scratch, over transport, own *workload.Workload, m match) []byte {
	q := &sc.q
	if q.opcode() != dns.OpcodeQuery { // a change of what is ours
		sc.out = q.appendError(sc.out, dns.RcodeNotImplemented)
		return sc.out
	}
	sc.addrs = s.meshAddresses(sc.addrs[:0], q, over, own, m)
	sc.out = q.appendLocal(sc.out, sc.addrs, m.stripped, q.limit(over == overTCP))
	return sc.out
}

// meshAddresses appends the addresses that q asks for, and counts and logs that.
func (s *Server) meshAddresses(addrs []netip.Addr, q *question, over transport, own *workload.Workload, m match) []netip.Addr {
	s.series(own, q.qtype, over).requests.Add(1)
	result := "service does not support this record type"
	if s.allows(m.service, q.qtype) {
		addrs = s.addresses(addrs, m.service, q.qtype, own.Network)
		result = "success"
		if len(addrs) == 0 {
			result = "no records"
		}
	}
	s.log(q, own, result, len(addrs))
	return addrs
}

// finish answers what respond has left, in new memory.
func (s *Server) finish(ctx context.Context, p *pending) (answer []byte) {
	defer s.outstanding.Add(-1)
	defer s.recovered()
	q := &p.q
	if p.own == nil && s.config.Store != nil {
		if p.own = s.awaitOwn(ctx, p.client); p.own == nil {
			s.series(nil, q.qtype, p.over).requests.Add(1)
			return q.appendError(nil, dns.RcodeServerFailure)
		}
		sc := scratches.Get().(*scratch)
		defer sc.release()
		sc.q, sc.out = q.clone(), sc.out[:0]
		if answer := s.atOnce(sc, p.over, p.own, p.packet != nil); answer != nil {
			return slices.Clone(answer)
		}
	}
	start := time.Now()
	if p.packet != nil {
		answer, err := s.forwarder.relay(ctx, p.over.String(), q, p.packet)
		s.forwarded(q, p.over, p.own, nil, err, time.Since(start))
		if err != nil {
			return q.appendError(nil, dns.RcodeServerFailure)
		}
		return answer
	}
	r, err := s.forwarder.ask(ctx, q)
	return s.forwardedAnswer(p, r, err, start)
}

// retry answers a query of which the first try was not enough, in new memory.
func (s *Server) retry(in *inquiry, first *outcome) (answer []byte) {
	defer s.outstanding.Add(-1)
	defer s.recovered()
	ctx, cancel := context.WithDeadline(s.ctx, in.start.Add(queryTimeout))
	defer cancel()
	r, err := s.forwarder.cache().lead(in.key, in.same, func() (*reply, error) {
		return s.forwarder.askResolvers(ctx, &in.q, in.asked, first)
	})
	return s.forwardedAnswer(in.pending, r, err, in.start)
}

// forwardedAnswer is the answer to a query that was forwarded, in new memory.
func (s *Server) forwardedAnswer(p *pending, r *reply, err error, start time.Time) []byte {
	q := &p.q
	now := time.Now()
	s.forwarded(q, p.over, p.own, r, err, now.Sub(start))
	if err != nil {
		return q.appendError(nil, dns.RcodeServerFailure)
	}
	return q.appendReply(nil, r, q.limit(p.over == overTCP), now)
}

// settle returns the reply that the first answer of a resolver makes, or nil if
// it takes more than that.
func (s *Server) settle(in *inquiry, answer []byte) *reply {
	defer s.recovered()
	m := new(dns.Msg)
	if be16(answer[2:])&flagTruncated != 0 || m.Unpack(answer) != nil || !isFinal(m.Rcode) {
		return nil
	}
	answers, end := belonging(in.asked, m.Answer)
	if end == "" || unfinished(m, in.asked, answers, end) {
		return nil
	}
	m.Answer, m.Question = answers, []dns.Question{in.asked}
	r, err := newReply(&in.q, m, time.Now())
	if err != nil {
		return nil
	}
	s.forwarder.good.Store(int32(in.server))
	return r
}

// deliver answers a query with the first answer of a resolver.
func (s *Server) deliver(in *inquiry, r *reply) {
	defer s.outstanding.Add(-1)
	defer s.recovered()
	s.forwarded(&in.q, in.over, in.own, r, nil, r.asked.Sub(in.start))
	sc := scratches.Get().(*scratch)
	sc.out = in.q.appendReply(sc.out[:0], r, in.q.limit(in.over == overTCP), r.asked)
	in.write(sc.out)
	sc.release()
}

// own is the workload whose queries these are, as the store has it now; nil if it
// does not.
func (s *Server) own(client netip.Addr) *workload.Workload {
	if s.config.Store == nil {
		return nil
	}
	return s.config.Store.Pod(s.config.Workload, s.config.Network, client)
}

// awaitOwn waits for the workload. It returns nil if it does not come in time.
func (s *Server) awaitOwn(ctx context.Context, client netip.Addr) *workload.Workload {
	if own := s.own(client); own != nil {
		return own
	}
	ctx, cancel := context.WithTimeout(ctx, workloadWait)
	defer cancel()
	own, err := s.config.Store.WaitLocal(ctx, s.config.Workload)
	if err != nil {
		s.config.Log.Warn(err.Error())
		return nil
	}
	return own
}

// recovered keeps a panic in one query from ending the process.
func (s *Server) recovered() {
	p := recover()
	if p == nil {
		return
	}
	if s.config.Panics != nil {
		s.config.Panics.Add(1)
	}
	s.config.Log.Error("panic while serving a query", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}
