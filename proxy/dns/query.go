package dns

import (
	"fmt"
	"runtime/debug"

	"github.com/miekg/dns"
)

// respond answers one message of a client, which came over "udp" or "tcp". It
// returns nil for what is not answered: no message, or an answer.
func (s *Server) respond(network string, packet []byte) (answer []byte) {
	defer s.recovered()
	query := new(dns.Msg)
	err := query.Unpack(packet)
	if len(packet) < headerLen || query.Response {
		return nil
	}
	if err != nil {
		return s.pack(refusal(query, dns.RcodeFormatError))
	}
	if code := verdict(query); code != dns.RcodeSuccess {
		return s.pack(refusal(query, code))
	}
	if s.outstanding.Add(1) > maxOutstanding {
		s.outstanding.Add(-1)
		s.config.Metrics.refused.Add(1)
		return s.pack(refusal(query, dns.RcodeServerFailure))
	}
	defer s.outstanding.Add(-1)
	reply, err := s.forward(network, query)
	if err != nil {
		s.config.Log.Debug("forwarding a query failed", "error", err)
		return s.pack(refusal(query, dns.RcodeServerFailure))
	}
	reply.Id = query.Id
	reply.Compress = true // as it came; else it may not fit any more
	if network == "udp" {
		reply.Truncate(sizeFor(query))
	}
	return s.pack(reply)
}

// headerLen is the length of the header of a message, in bytes.
const headerLen = 12

// verdict is the code with which a query is refused, or success if it can be
// forwarded: it has one question, or one zone if it is an update, and no records
// where only answers have them.
func verdict(query *dns.Msg) int {
	var misplaced bool
	switch query.Opcode {
	case dns.OpcodeUpdate:
	case dns.OpcodeNotify: // may tell the new SOA record
		misplaced = len(query.Answer) > 1 || len(query.Ns) > 0 || len(query.Extra) > 2
	case dns.OpcodeQuery: // a transfer of a zone by difference tells its SOA record
		misplaced = len(query.Answer) > 0 || len(query.Ns) > 1 || len(query.Extra) > 2
	default:
		return dns.RcodeNotImplemented
	}
	if misplaced || len(query.Question) != 1 {
		return dns.RcodeFormatError
	}
	return dns.RcodeSuccess
}

// refusal is an answer without records.
func refusal(query *dns.Msg, code int) *dns.Msg {
	m := new(dns.Msg)
	m.Id, m.Response, m.Opcode, m.Rcode = query.Id, true, query.Opcode, code
	m.RecursionDesired, m.CheckingDisabled = query.RecursionDesired, query.CheckingDisabled
	if len(query.Question) > 0 {
		m.Question = query.Question[:1]
	}
	return m
}

// pack is a message on the wire, nil if it cannot be one.
func (s *Server) pack(m *dns.Msg) []byte {
	packet, err := m.Pack()
	if err != nil {
		s.config.Log.Debug("an answer cannot be encoded", "error", err)
		return nil
	}
	return packet
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

// sizeFor is the largest answer that the client takes over UDP (RFC 6891).
func sizeFor(query *dns.Msg) int {
	if opt := query.IsEdns0(); opt != nil {
		return max(dns.MinMsgSize, int(opt.UDPSize()))
	}
	return dns.MinMsgSize
}
