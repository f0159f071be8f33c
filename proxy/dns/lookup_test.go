package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"

	"ztunnel/proxy/needs"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/workload"
)

func TestLookup(t *testing.T) {
	s := meshServer(t, records(t, "www.bing.com. 60 IN A 1.1.1.1", "alias.test. 60 IN CNAME www.bing.com."))
	for _, tc := range []struct {
		host string
		ipv6 bool
		want []string
	}{
		{"productpage", false, []string{"9.9.9.9"}},
		{"productpage.ns1.svc.cluster.local", false, []string{"9.9.9.9"}},
		{"productpage.ns1.ns1.svc.cluster.local.", false, []string{"9.9.9.9"}},
		{"dual.ns1", true, []string{"fd00::1"}},
		{"only4.ns1", true, nil},
		{"headless.ns1", false, []string{"30.0.0.1", "30.0.0.2"}},
		{"www.bing.com", false, []string{"1.1.1.1"}},
		{"alias.test", false, []string{"1.1.1.1"}},
		{"www.bing.com", true, nil},
		{"missing.test", false, nil},
	} {
		addrs, err := s.Lookup(t.Context(), tc.host, tc.ipv6)
		if err != nil {
			t.Errorf("Lookup(%s): %v", tc.host, err)
		}
		var got []string
		for _, a := range addrs {
			got = append(got, a.String())
		}
		if slices.Sort(got); !slices.Equal(got, tc.want) {
			t.Errorf("Lookup(%s, %v) = %v, want %v", tc.host, tc.ipv6, got, tc.want)
		}
	}
	for _, host := range []string{"", strings.Repeat("a", 64), strings.Repeat("a.", 200), "a..b"} {
		if addrs, err := s.Lookup(t.Context(), host, false); err == nil && len(addrs) > 0 {
			t.Errorf("Lookup(%q) = %v", host, addrs)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := meshServer(t, mute(t)).Lookup(ctx, "there.test", false); err == nil {
		t.Error("Lookup after the end of its context succeeded")
	}
}

func mute(t *testing.T) netip.AddrPort {
	addr, _ := silent(t)
	return addr
}

// The server's end is that of its lookups.
func TestLookup_EndsWithTheServer(t *testing.T) {
	resolver, asked := silent(t)
	s := meshServer(t, resolver)
	ended := make(chan error, 1)
	go func() {
		_, err := s.Lookup(t.Context(), "there.test", false)
		ended <- err
	}()
	proxytest.Until(t, "the resolver is asked", func() bool { return asked.Load() > 0 })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("Lookup succeeded")
	}
}

// A query waits for the pod's workload, and only that long.
func TestRespond_WaitsForTheWorkload(t *testing.T) {
	s := meshServer(t)
	own := s.config.Store.Local(clientInfo)
	late := workload.NewStore(workload.Config{})
	late.Apply(workload.Update{Services: []*workload.Service{service("ns1", "www.google.com", "1.1.1.1")}})
	s.config.Store = late
	b, err := new(dns.Msg).SetQuestion("www.google.com.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer, rest := s.respond(new(scratch), overUDP, b, netip.Addr{})
	if answer != nil || rest == nil {
		t.Fatal("a query is answered before its workload is known")
	}
	late.Apply(workload.Update{Workloads: []*workload.Workload{{
		UID: "late", Name: own.Name, Namespace: own.Namespace, ServiceAccount: own.ServiceAccount, Network: own.Network,
	}}})
	m := new(dns.Msg)
	if err := m.Unpack(s.finish(t.Context(), rest)); err != nil || len(m.Answer) != 1 {
		t.Errorf("got %v, %v, want an address", m, err)
	}

	s.config.Store = workload.NewStore(workload.Config{})
	_, rest = s.respond(new(scratch), overUDP, b, netip.Addr{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := m.Unpack(s.finish(ctx, rest)); err != nil || m.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v, %v, want SERVFAIL", m, err)
	}
	if n := s.outstanding.Load(); n != 0 {
		t.Errorf("%d queries are left", n)
	}
}

// The resolver of the standard library gets what it asks for, over both
// transports, and understands what does not exist.
func TestServe_StandardResolver(t *testing.T) {
	for over := range transports {
		s := meshServer(t, records(t, "www.bing.com. 60 IN A 1.1.1.1"))
		s.Start(func(err error) { t.Error(err) })
		std := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			if over == overTCP || network == "tcp" {
				return new(net.Dialer).DialContext(ctx, "tcp", s.tcp[0].Addr().String())
			}
			return new(net.Dialer).DialContext(ctx, "udp", s.udp[0].LocalAddr().String())
		}}
		for host, want := range map[string][]string{
			"productpage.ns1.svc.cluster.local.":     {"9.9.9.9"},
			"productpage.ns1.ns1.svc.cluster.local.": {"9.9.9.9"},
			"dual.ns1.":                              {"15.0.0.1", "fd00::1"},
			"www.bing.com.":                          {"1.1.1.1"},
		} {
			got, err := std.LookupHost(t.Context(), host)
			slices.Sort(got)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s over %s: %v, %v, want %v", host, over, got, err, want)
			}
		}
		_, err := std.LookupHost(t.Context(), "missing.test.")
		if notFound, ok := errors.AsType[*net.DNSError](err); !ok || !notFound.IsNotFound {
			t.Errorf("a missing name over %s: %v, want that it is not found", over, err)
		}
		if addrs, err := std.LookupHost(t.Context(), "large.com."); err != nil || len(addrs) != 256 {
			t.Errorf("%d addresses over %s, %v, want 256", len(addrs), over, err)
		}
	}
}

// At a socket that is bound to all addresses, an answer comes from the one that
// was asked.
func TestServe_AllAddresses(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", "[::]:0"} {
		s, err := Listen(t.Context(), Config{
			Addrs: []netip.AddrPort{netip.MustParseAddrPort(addr)}, Workload: clientInfo, Store: meshStore(), Network: "nw1", Domain: "cluster.local",
			Upstreams: Upstreams{Servers: []netip.AddrPort{records(t, "www.bing.com. 60 IN A 1.1.1.1")}}, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			needs.Missing(t, fmt.Sprintf("this test needs a socket at %s: %v", addr, err))
		}
		s.Start(func(err error) { t.Error(err) })
		to := fmt.Sprintf("127.0.0.1:%d", s.udp[0].LocalAddr().(*net.UDPAddr).Port)
		for _, host := range []string{"productpage.", "www.bing.com."} {
			if m := ask(t, "udp", to, host); len(m.Answer) != 1 {
				t.Errorf("at %s: %v, want an address", addr, m)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestResolver(t *testing.T) {
	var asked atomic.Int64
	known := map[string][]string{
		"four.test.": {"A 192.0.2.4"}, "six.test.": {"AAAA fd00::6"}, "both.test.": {"A 192.0.2.5", "AAAA fd00::5"},
		"short.lan.test.": {"A 192.0.2.7"}, "a.b.test.": {"A 192.0.2.8"}, "alias.test.": {"CNAME four.test."}, "text.test.": {"TXT nothing"},
	}
	server := upstream(t, func(_ string, q *dns.Msg) *dns.Msg {
		asked.Add(1)
		m := new(dns.Msg).SetReply(q)
		if known[q.Question[0].Name] == nil {
			m.Rcode = dns.RcodeNameError
		}
		for _, data := range known[q.Question[0].Name] {
			if r := rr(t, q.Question[0].Name+" 60 IN "+data); r.Header().Rrtype == q.Question[0].Qtype || r.Header().Rrtype == dns.TypeCNAME {
				m.Answer = append(m.Answer, r)
			}
		}
		return m
	})
	r := NewResolver(ResolverConfig{Upstreams: Upstreams{Servers: []netip.AddrPort{server}}, Search: []string{"lan.test", "test"}})
	for _, tc := range []struct {
		network, host string
		want          []string
	}{
		{"ip", "four.test", []string{"192.0.2.4"}},
		{"ip", "six.test", []string{"fd00::6"}},
		{"ip", "both.test", []string{"192.0.2.5", "fd00::5"}},
		{"ip4", "both.test", []string{"192.0.2.5"}},
		{"ip6", "both.test", []string{"fd00::5"}},
		{"ip", "alias.test", []string{"192.0.2.4"}},
		{"ip", "short", []string{"192.0.2.7"}},
		{"ip", "a.b", []string{"192.0.2.8"}},
		{"ip", "192.0.2.99", []string{"192.0.2.99"}},
		{"ip", "text.test", nil},
		{"ip", "none.test.", nil},
		{"ip", "not..a.name", nil},
		{"tcp", "four.test", nil},
	} {
		addrs, err := r.LookupNetIP(t.Context(), tc.network, tc.host)
		var got []string
		for _, a := range addrs {
			got = append(got, a.String())
		}
		if diff := cmp.Diff(tc.want, got, cmpopts.SortSlices(strings.Compare)); diff != "" || (err == nil) != (tc.want != nil) {
			t.Errorf("%s %s: %v (-want +got):\n%s", tc.network, tc.host, err, diff)
		}
	}
	before := asked.Load()
	if _, err := r.LookupNetIP(t.Context(), "ip4", "four.test"); err != nil || asked.Load() != before {
		t.Errorf("a kept answer: %v, %d questions", err, asked.Load()-before)
	}
}
