package interop

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"ztunnel/loadtest/mesh"
)

// outside is a name server outside of the mesh, over UDP and TCP.
type outside struct {
	zone    map[string][]dns.RR // by name
	updates atomic.Int32        // that were asked for
}

// serveOutside runs the server until the test ends.
func serveOutside(t *testing.T, at *mesh.Namespace) *outside {
	t.Helper()
	o := &outside{zone: map[string][]dns.RR{}}
	records := []string{
		"www.example.org. 60 IN A 192.0.2.7", "www.example.org. 60 IN AAAA 2001:db8::7", "www.example.org. 60 IN TXT outside",
		"alias.example.org. 60 IN CNAME www.example.org.", "7.2.0.192.in-addr.arpa. 60 IN PTR www.example.org.",
	}
	for i := range crowded {
		records = append(records, fmt.Sprintf("crowd.example.org. 60 IN A 192.0.2.%d", i))
	}
	for _, text := range records {
		record, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		o.zone[record.Header().Name] = append(o.zone[record.Header().Name], record)
	}
	ln, err := at.Listen(t.Context(), 53)
	if err != nil {
		t.Fatal(err)
	}
	packets, err := listenPacket(t.Context(), at, 53)
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*dns.Server{{Listener: ln}, {PacketConn: packets}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		server.Handler = o
		server.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept } // updates too
		server.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- server.ActivateAndServe() }() // the end of the test waits for it
		<-started
		t.Cleanup(func() {
			if err := errors.Join(server.Shutdown(), <-ended); err != nil {
				t.Errorf("the name server outside of the mesh: %v", err)
			}
		})
	}
	return o
}

// ServeDNS implements [dns.Handler].
func (o *outside) ServeDNS(w dns.ResponseWriter, asked *dns.Msg) {
	answer := o.answer(asked)
	if w.RemoteAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if opt := asked.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		answer.Truncate(size)
	}
	_ = w.WriteMsg(answer) // who asked sees if it is missing
}

func (o *outside) answer(asked *dns.Msg) *dns.Msg {
	answer := new(dns.Msg).SetReply(asked)
	answer.RecursionAvailable = true
	if asked.Opcode == dns.OpcodeUpdate {
		o.updates.Add(1)
		return answer
	}
	all := o.zone[asked.Question[0].Name]
	if len(all) == 0 {
		answer.Rcode = dns.RcodeNameError
		return answer
	}
	if alias, ok := all[0].(*dns.CNAME); ok {
		answer.Answer, all = append(answer.Answer, alias), o.zone[alias.Target]
	}
	for _, record := range all {
		if record.Header().Rrtype == asked.Question[0].Qtype {
			answer.Answer = append(answer.Answer, record)
		}
	}
	return answer
}
