package dns

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"ztunnel/proxy/workload"
)

// The mesh of identity-inpod-dns 9.5: a client in ns1 on the network nw1.
var clientInfo = workload.Info{Name: "client", Namespace: "ns1", ServiceAccount: "client"}

// vips are addresses in the client's network; "nw2/ADDR" is one elsewhere.
func vips(addrs ...string) []workload.NetworkAddress {
	var list []workload.NetworkAddress
	for _, a := range addrs {
		network, addr, ok := strings.Cut(a, "/")
		if !ok {
			network, addr = "nw1", a
		}
		list = append(list, workload.NetworkAddress{Network: network, Addr: netip.MustParseAddr(addr)})
	}
	return list
}

func service(namespace, host string, addrs ...string) *workload.Service {
	return &workload.Service{Name: host, Namespace: namespace, Hostname: host, VIPs: vips(addrs...)}
}

func kube(name, namespace string, addrs ...string) *workload.Service {
	return service(namespace, name+"."+namespace+".svc.cluster.local", addrs...)
}

func with(s *workload.Service, change func(*workload.Service)) *workload.Service {
	change(s)
	return s
}

func canonical(s *workload.Service) { s.Canonical = true }
func private(s *workload.Service)   { s.Visibility = workload.VisibilityNamespace }

// pod is an endpoint of a service.
func pod(name string, of *workload.Service, addrs ...string) *workload.Workload {
	w := &workload.Workload{UID: "c//Pod/ns1/" + name, Name: name, Namespace: "ns1", Network: "nw1"}
	for _, a := range addrs {
		w.Addrs = append(w.Addrs, netip.MustParseAddr(a))
	}
	w.Services = map[workload.NamespacedHostname]workload.PortMap{of.Key(): {80: 80}}
	return w
}

func meshStore() *workload.Store {
	large := make([]string, 256)
	for i := range large {
		large[i] = fmt.Sprintf("10.99.0.%d", i)
	}
	headless, headless6 := kube("headless", "ns1"), kube("headless-ipv6", "ns1")
	outside := service("ns1", "headless.outside.com")
	store := workload.NewStore(workload.Config{})
	store.Apply(workload.Update{
		Services: []*workload.Service{
			service("ns1", "www.google.com", "1.1.1.1"),
			kube("productpage", "ns1", "9.9.9.9"),
			kube("example", "ns2", "10.10.10.10"),
			with(kube("hidden", "ns2", "10.10.10.11"), private), with(kube("own", "ns1", "10.10.10.12"), private),
			service("ns2", "details.ns2.svc.cluster.remote", "11.11.11.11", "12.12.12.12", "13.13.13.13", "14.14.14.14"),
			kube("dual", "ns1", "15.0.0.1", "fd00::1"),
			with(kube("only4", "ns1", "15.0.0.2", "fd00::2"), func(s *workload.Service) { s.IPFamilies = workload.FamiliesIPv4 }),
			with(kube("only6", "ns1", "15.0.0.3", "fd00::3"), func(s *workload.Service) { s.IPFamilies = workload.FamiliesIPv6 }),
			service("ns1", "*.wildcard", "10.10.10.20"), service("ns1", "*.b.wildcard", "10.10.10.21"), service("ns1", "*.svc.mesh.company.net", "10.1.2.3"),
			kube("far", "ns1", "nw2/10.0.0.1"), kube("both", "ns1", "nw1/10.0.0.2", "nw2/10.0.0.3"),
			headless, headless6, outside,
			service("ns1", "large.com", large...),
			service("ns1", "local.several", "20.0.0.1"), with(service("ns2", "local.several", "20.0.0.2"), canonical), service("preferred-ns", "local.several", "20.0.0.3"),
			service("ns2", "preferred.several", "20.0.1.1"), service("preferred-ns", "preferred.several", "20.0.1.2"), service("ns3", "preferred.several", "20.0.1.3"),
			service("ns2", "canonical.several", "20.0.2.1"), with(service("ns3", "canonical.several", "20.0.2.2"), canonical), service("preferred-ns", "canonical.several", "20.0.2.3"),
			service("ns3", "first.several", "20.0.3.1"), service("ns2", "first.several", "20.0.3.2"),
			service("ns1", strings.Repeat("a", 63)+"."+strings.Repeat("b", 63)+".long", "20.0.4.1"),
		},
		Workloads: []*workload.Workload{
			{UID: "c//Pod/ns1/client", Name: "client", Namespace: "ns1", ServiceAccount: "client", Network: "nw1", CanonicalName: "client-app", CanonicalRevision: "v1"},
			pod("pod0", headless, "30.0.0.1", "30.0.0.9", "2001:db8::30"), pod("pod1", headless, "30.0.0.2", "2001:db8::31"),
			pod("pod2", headless6, "2001:db8::33"), pod("pod3", outside, "40.0.0.1"),
		},
	})
	return store
}

// meshServer is a server for the client, of which nothing runs.
func meshServer(tb testing.TB, upstreams ...netip.AddrPort) *Server {
	tb.Helper()
	return listen(tb, Config{Upstreams: Upstreams{Servers: upstreams}})
}

// listen makes a server for the client of what the configuration leaves open.
func listen(tb testing.TB, c Config) *Server {
	tb.Helper()
	c.Addrs, c.Workload, c.Store, c.Log = []netip.AddrPort{loopback}, clientInfo, meshStore(), slog.New(slog.DiscardHandler)
	c.Network, c.Domain, c.IPv6, c.PreferredNamespace = "nw1", "cluster.local", true, "preferred-ns"
	s, err := Listen(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// complete is the answer to what respond has left.
func complete(tb testing.TB, s *Server, rest *pending) []byte {
	answers := make(chan []byte, 1)
	begun := rest.over == overUDP && s.inquiries.begin(rest, func(answer []byte) { answers <- slices.Clone(answer) })
	if !begun {
		return s.finish(tb.Context(), rest)
	}
	select {
	case answer := <-answers:
		return answer
	case <-time.After(2 * queryTimeout):
		tb.Fatal("no answer")
		return nil
	}
}

// query asks the server for one name and reads its answer.
func query(tb testing.TB, s *Server, over transport, q *dns.Msg) *dns.Msg {
	tb.Helper()
	b, err := q.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	answer, rest := s.respond(new(scratch), over, b, netip.Addr{})
	if rest != nil {
		answer = complete(tb, s, rest)
	}
	m := new(dns.Msg)
	if err := m.Unpack(answer); err != nil {
		tb.Fatalf("answer %x: %v", answer, err)
	}
	return m
}

// text is the answer section, sorted, as "OWNER TYPE DATA".
func text(m *dns.Msg) []string {
	var list []string
	for _, rr := range m.Answer {
		list = append(list, fmt.Sprint(rr.Header().Name, " ", dns.Type(rr.Header().Rrtype), " ", strings.TrimPrefix(rr.String(), rr.Header().String())))
	}
	slices.Sort(list)
	return list
}

// upstreams is what the resolver of the tests knows.
var upstreamRecords = []string{"www.bing.com. 60 IN A 1.1.1.1", "productpage.ns1.svc.cluster.local. 60 IN NS ns.test."}

func TestRespond_Mesh(t *testing.T) {
	s := meshServer(t, records(t, upstreamRecords...))
	const forwarded = "forwarded"
	for _, tc := range []struct {
		name  string
		qtype uint16
		want  []string // of answers; forwarded: NXDOMAIN of the resolver
	}{
		{"www.google.com.", dns.TypeA, []string{"www.google.com. A 1.1.1.1"}},
		{"www.google.com.ns1.svc.cluster.local.", dns.TypeA, []string{"www.google.com. A 1.1.1.1", "www.google.com.ns1.svc.cluster.local. CNAME www.google.com."}},
		{"productpage.ns1.svc.cluster.local.", dns.TypeA, []string{"productpage.ns1.svc.cluster.local. A 9.9.9.9"}},
		{"PRODUCTPAGE.ns1.svc.Cluster.local.", dns.TypeA, []string{"productpage.ns1.svc.cluster.local. A 9.9.9.9"}},
		{"productpage.ns1.svc.", dns.TypeA, []string{"productpage.ns1.svc. A 9.9.9.9"}},
		{"productpage.ns1.", dns.TypeA, []string{"productpage.ns1. A 9.9.9.9"}},
		{"productpage.", dns.TypeA, []string{"productpage. A 9.9.9.9"}},
		{"productpage.ns1.ns1.svc.cluster.local.", dns.TypeA, []string{"productpage.ns1. A 9.9.9.9", "productpage.ns1.ns1.svc.cluster.local. CNAME productpage.ns1."}},
		{"Productpage.NS1.ns1.svc.cluster.local.", dns.TypeA, []string{"productpage.ns1. A 9.9.9.9", "productpage.ns1.ns1.svc.cluster.local. CNAME productpage.ns1."}},
		{"productpage.ns1.ns1.svc.cluster.local.", dns.TypeAAAA, nil},
		{"example.ns2.", dns.TypeA, []string{"example.ns2. A 10.10.10.10"}},
		{"example.ns2.svc.", dns.TypeA, []string{"example.ns2.svc. A 10.10.10.10"}},
		{"example.ns2.svc.cluster.local.", dns.TypeA, []string{"example.ns2.svc.cluster.local. A 10.10.10.10"}},
		{"example.", dns.TypeA, []string{forwarded}},
		{"hidden.ns2.", dns.TypeA, []string{forwarded}},
		{"own.ns1.", dns.TypeA, []string{"own.ns1. A 10.10.10.12"}},
		{"details.ns2.svc.cluster.remote.", dns.TypeA, []string{
			"details.ns2.svc.cluster.remote. A 11.11.11.11", "details.ns2.svc.cluster.remote. A 12.12.12.12",
			"details.ns2.svc.cluster.remote. A 13.13.13.13", "details.ns2.svc.cluster.remote. A 14.14.14.14",
		}},
		{"details.ns2.", dns.TypeA, []string{forwarded}},
		{"dual.", dns.TypeA, []string{"dual. A 15.0.0.1"}},
		{"dual.", dns.TypeAAAA, []string{"dual. AAAA fd00::1"}},
		{"only4.", dns.TypeA, []string{"only4. A 15.0.0.2"}},
		{"only4.", dns.TypeAAAA, nil},
		{"only6.", dns.TypeA, nil},
		{"only6.", dns.TypeAAAA, []string{"only6. AAAA fd00::3"}},
		{"foo.wildcard.", dns.TypeA, []string{"foo.wildcard. A 10.10.10.20"}},
		{"a.b.wildcard.", dns.TypeA, []string{"a.b.wildcard. A 10.10.10.21"}},
		{"wildcard.", dns.TypeA, []string{forwarded}},
		{"b.wildcard.", dns.TypeA, []string{"b.wildcard. A 10.10.10.20"}},
		{"foo.foons.svc.mesh.company.net.", dns.TypeA, []string{"foo.foons.svc.mesh.company.net. A 10.1.2.3"}},
		{"foo.foons.svc.mesh.company.net.ns1.svc.cluster.local.", dns.TypeA, []string{"foo.foons.svc.mesh.company.net.ns1.svc.cluster.local. A 10.1.2.3"}},
		{`dots\.in.labels\032too.wildcard.`, dns.TypeA, []string{`dots\.in.labels\ too.wildcard. A 10.10.10.20`}},
		{`dot\.wildcard.`, dns.TypeA, []string{forwarded}},
		{"far.ns1.", dns.TypeA, nil},
		{"both.ns1.", dns.TypeA, []string{"both.ns1. A 10.0.0.2"}},
		{"headless.ns1.svc.cluster.local.", dns.TypeA, []string{"headless.ns1.svc.cluster.local. A 30.0.0.1", "headless.ns1.svc.cluster.local. A 30.0.0.2"}},
		{"headless.ns1.", dns.TypeAAAA, []string{"headless.ns1. AAAA 2001:db8::30", "headless.ns1. AAAA 2001:db8::31"}},
		{"headless-ipv6.ns1.", dns.TypeAAAA, []string{"headless-ipv6.ns1. AAAA 2001:db8::33"}},
		{"headless-ipv6.ns1.", dns.TypeA, nil},
		{"headless.pod0.ns1.svc.cluster.local.", dns.TypeA, []string{forwarded}},
		{"headless.pod0.ns1.", dns.TypeA, []string{forwarded}},
		{"headless.outside.com.", dns.TypeA, []string{forwarded}},
		{"local.several.", dns.TypeA, []string{"local.several. A 20.0.0.1"}},
		{"preferred.several.", dns.TypeA, []string{"preferred.several. A 20.0.1.2"}},
		{"canonical.several.", dns.TypeA, []string{"canonical.several. A 20.0.2.2"}},
		{"first.several.", dns.TypeA, []string{"first.several. A 20.0.3.1"}},
		{"www.bing.com.", dns.TypeA, []string{"www.bing.com. A 1.1.1.1"}},
		{"productpage.ns1.svc.cluster.local.", dns.TypeNS, []string{"productpage.ns1.svc.cluster.local. NS ns.test."}},
		{".", dns.TypeA, []string{forwarded}},
	} {
		for over := range transports {
			t.Run(fmt.Sprint(tc.name, dns.Type(tc.qtype), over), func(t *testing.T) {
				m := query(t, s, over, new(dns.Msg).SetQuestion(tc.name, tc.qtype))
				if len(tc.want) == 1 && tc.want[0] == forwarded {
					if m.Rcode != dns.RcodeNameError {
						t.Errorf("got %v, want NXDOMAIN of the resolver", m)
					}
					return
				}
				if got := text(m); m.Rcode != dns.RcodeSuccess || !slices.Equal(got, tc.want) {
					t.Errorf("got %v, want %q", m, tc.want)
				}
				local := tc.qtype != dns.TypeNS && tc.name != "www.bing.com."
				if m.Authoritative != local || !m.RecursionAvailable || m.Truncated || m.Question[0].Name != tc.name && !strings.Contains(tc.name, `\`) {
					t.Errorf("header or question are wrong: %v", m)
				}
				for _, rr := range m.Answer {
					if local && rr.Header().Ttl != localTTL {
						t.Errorf("TTL of %v, want %d", rr, localTTL)
					}
				}
			})
		}
	}
}
