package dns

import (
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// upstream starts a resolver on both transports that answers with a handler. Its
// answers over UDP are cut to what the client takes.
func upstream(t *testing.T, handle func(network string, q *dns.Msg) *dns.Msg) netip.AddrPort {
	t.Helper()
	packets, streams := samePort(t)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		network := w.RemoteAddr().Network()
		m := handle(network, q)
		if m == nil {
			return
		}
		if network == "udp" {
			size := dns.MinMsgSize
			if opt := q.IsEdns0(); opt != nil {
				size = int(opt.UDPSize())
			}
			m.Truncate(size)
		}
		w.WriteMsg(m)
	})
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait) // after the shutdowns
	accept := func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler, MsgAcceptFunc: accept}, {Listener: streams, Handler: handler, MsgAcceptFunc: accept}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		serving.Go(func() { s.ActivateAndServe() })
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return netip.MustParseAddrPort(packets.LocalAddr().String())
}

// records is a resolver that knows these and nothing else. It does not follow
// aliases.
func records(t *testing.T, list ...string) netip.AddrPort {
	t.Helper()
	var all []dns.RR
	for _, r := range list {
		all = append(all, rr(t, r))
	}
	soa := rr(t, ". 9 IN SOA ns.test. host.test. 1 60 60 60 5")
	return upstream(t, func(_ string, q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Authoritative, m.RecursionAvailable, m.Rcode = true, true, dns.RcodeNameError
		for _, r := range all {
			if !strings.EqualFold(r.Header().Name, q.Question[0].Name) {
				continue
			}
			m.Rcode = dns.RcodeSuccess
			if t := r.Header().Rrtype; t == q.Question[0].Qtype || t == dns.TypeCNAME {
				m.Answer = append(m.Answer, r)
			}
		}
		if len(m.Answer) == 0 {
			m.Ns = []dns.RR{soa}
		}
		return m
	})
}

func rr(t *testing.T, text string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
