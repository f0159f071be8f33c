package route

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"ztunnel/proxy/workload"
)

const (
	region, zone, subzone  = workload.ScopeRegion, workload.ScopeZone, workload.ScopeSubzone
	node, cluster, network = workload.ScopeNode, workload.ScopeCluster, workload.ScopeNetwork
	strict, failover       = workload.ModeStrict, workload.ModeFailover
)

// tally picks n times and counts who was chosen.
func tally(t testing.TB, s *workload.Store, src *workload.Workload, n int) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for range n {
		d, err := Pick(s, &Request{Source: src, Client: netip.MustParseAddrPort("127.0.0.1:1"), Target: netip.MustParseAddrPort("10.0.0.1:80")}, Random{})
		if err != nil {
			counts[err.Error()]++
			continue
		}
		counts[d.Workload.UID]++
	}
	return counts
}

func chosen(counts map[string]int) string {
	return strings.Join(slices.Sorted(maps.Keys(counts)), " ")
}

// Who can be chosen, by preference, health and capacity. The workloads are
// named after where they are: network, region, zone.
func TestPreferences(t *testing.T) {
	const none = "no healthy upstream: 10.0.0.1:80"
	gateway := gwAddr("/127.0.0.99:15008")
	place := func(name string) *workload.Workload {
		w := pod(name, at("127.0.0.2"), in("s"), behindGateway(gateway))
		w.Network, w.Locality.Region, w.Locality.Zone = name[0:1], name[1:2], name[2:3]
		return w
	}
	for _, test := range []struct {
		name   string
		mode   workload.Mode
		scopes []workload.Scope
		places string // network, region, zone; the source's are all "0"
		want   string
	}{
		{"strict, nothing matches", strict, []workload.Scope{network, region, zone}, "111 100", none},
		{"strict, all match", strict, []workload.Scope{network, region, zone}, "000 001 100 011", "000"},
		{"strict without preferences", strict, nil, "000 011", "000 011"},
		{"failover, nothing matches", failover, []workload.Scope{network, region, zone}, "111 122", "111 122"},
		{"failover, full match", failover, []workload.Scope{network, region, zone}, "111 000 001 100", "000"},
		{"failover, network and region", failover, []workload.Scope{network, region, zone}, "001 002 011 100", "001 002"},
		{"failover, network only", failover, []workload.Scope{network, region, zone}, "011 012 100", "011 012"},
		{"failover, region and zone in other networks", failover, []workload.Scope{network, region, zone}, "100 200 101 111", "100 200"},
		{"failover, region in other networks", failover, []workload.Scope{network, region, zone}, "101 111", "101"},
		{"failover, a zone without its region does not count", failover, []workload.Scope{network, region, zone}, "110 111", "110 111"},
		{"failover, region before network", failover, []workload.Scope{region, network}, "010 100", "100"},
		{"failover, both", failover, []workload.Scope{region, network}, "000 100", "000"},
		{"failover, network alone", failover, []workload.Scope{network}, "011 100", "011"},
		{"failover, zones of different regions are equal", failover, []workload.Scope{zone}, "010 001", "010"},
		{"preferences that do not count", workload.ModeStandard, []workload.Scope{network}, "000 100", "000 100"},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := source(on("0"), locality("0", "0", ""))
			items := []any{src, service("s", "0/10.0.0.1", balanced(test.mode, test.scopes...)), pod("gateway", at("127.0.0.99"))}
			for p := range strings.FieldsSeq(test.places) {
				items = append(items, place(p))
			}
			s := world(t, items...)
			counts := map[string]int{}
			for range 200 {
				p := picker{Store: s, Request: &Request{Source: src}, rnd: Random{}}
				if e, ok := p.balance(s.Service(workload.NamespacedHostname{Namespace: "default", Hostname: "s"}), 80, standardMode); ok {
					counts[e.Workload.UID]++
				} else {
					counts[none]++
				}
			}
			if got := chosen(counts); got != test.want {
				t.Errorf("chosen = %s, want %s", got, test.want)
			}
		})
	}
}

func TestHealthAndCapacity(t *testing.T) {
	const none = "no healthy upstream: 10.0.0.1:80"
	allowAll := func(s *workload.Service) { s.LoadBalancer = &workload.LoadBalancer{HealthPolicy: workload.AllowAll} }
	for _, test := range []struct {
		name  string
		opt   func(*workload.Service)
		world []any
		want  string
	}{
		{"two endpoints", nil, []any{pod("a", at("127.0.0.2"), in("s")), pod("b", at("127.0.0.3"), in("s"))}, "a b"},
		{"the source's node is not preferred", nil, []any{pod("a", at("127.0.0.2"), in("s"), func(w *workload.Workload) { w.Node = "n" }), pod("b", at("127.0.0.3"), in("s"), func(w *workload.Workload) { w.Node = "m" })}, "a b"},
		{"unhealthy", nil, []any{pod("a", at("127.0.0.2"), in("s"), unhealthy), pod("b", at("127.0.0.3"), in("s"))}, "b"},
		{"only unhealthy", nil, []any{pod("a", at("127.0.0.2"), in("s"), unhealthy)}, none},
		{"unhealthy is allowed", allowAll, []any{pod("a", at("127.0.0.2"), in("s"), unhealthy), pod("b", at("127.0.0.3"), in("s"))}, "a b"},
		{"no capacity", nil, []any{weightless{pod("a", at("127.0.0.2"), in("s"))}, pod("b", at("127.0.0.3"), in("s"))}, "b"},
		{"only without capacity", nil, []any{weightless{pod("a", at("127.0.0.2"), in("s"))}}, none},
		{"no capacity at the best place", balanced(failover, region), []any{weightless{pod("a", at("127.0.0.2"), in("s"))}, pod("b", at("127.0.0.3"), in("s"), locality("far", "", ""))}, none},
		{"largest capacities do not overflow", nil, []any{pod("a", at("127.0.0.2"), in("s"), capacity(1<<32-1)), pod("b", at("127.0.0.3"), in("s"), capacity(1<<32-1))}, "a b"},
		{"no way to reach it", nil, []any{pod("a", in("s")), pod("b", at("127.0.0.3"), in("s"))}, "b"},
		{"a gateway is no way in the same network", nil, []any{pod("a", in("s"), behindGateway(gwAddr("/127.0.0.3:1"))), pod("b", at("127.0.0.3"), in("s"))}, "b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := source(func(w *workload.Workload) { w.Node = "n" })
			svc := service("s", "/10.0.0.1")
			if test.opt != nil {
				test.opt(svc)
			}
			s := world(t, append([]any{src, svc}, test.world...)...)
			if got := chosen(tally(t, s, src, 51)); got != test.want {
				t.Errorf("chosen = %s, want %s", got, test.want)
			}
		})
	}
}

func capacity(n uint32) func(*workload.Workload) {
	return func(w *workload.Workload) { w.Capacity = n }
}

// One of several waypoints is taken by weight, else the single one.
func TestWeightedWaypoints(t *testing.T) {
	a, b, single := gwAddr("/127.0.0.2:15008"), gwAddr("/127.0.0.3:15008"), gwAddr("/127.0.0.4:15008")
	const passed = ""
	for _, test := range []struct {
		name    string
		weights []any
		single  *workload.Gateway
		want    string
	}{
		{"none", nil, nil, passed},
		{"single", nil, single, "single"},
		{"all to the first", []any{a, 100, b, 0}, single, "a"},
		{"all to the second", []any{a, 0, b, 100}, single, "b"},
		{"no weight", []any{a, 0, b, 0}, single, "single"},
		{"no weight and no single", []any{a, 0, b, 0}, nil, passed},
		{"both", []any{a, 75, b, 25}, single, "a b"},
		{"large weights", []any{a, 1<<31 - 1, b, 1<<31 - 1}, single, "a b"},
		{"too large a sum", []any{a, 1<<32 - 1, b, 1}, single, "single"},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := source()
			opts := []func(*workload.Service){weighted(test.weights...), balanced(workload.ModePassthrough)}
			if test.single != nil {
				opts = append(opts, serviceVia(test.single))
			}
			s := world(t, src, service("s", "/10.0.0.1", opts...), pod("a", at("127.0.0.2")), pod("b", at("127.0.0.3")), pod("single", at("127.0.0.4")))
			counts := map[string]int{}
			for i := range 4000 {
				d, err := Pick(s, &Request{Source: src, Target: netip.MustParseAddrPort("10.0.0.1:80")}, rand.New(rand.NewPCG(1, uint64(i))))
				if err != nil {
					t.Fatal(err)
				}
				name := passed
				if d.Workload != nil {
					name = d.Workload.UID
				}
				counts[name]++
			}
			if got := chosen(counts); got != test.want {
				t.Errorf("chosen = %v, want %s", counts, test.want)
			}
			if test.name == "both" && (counts["b"] < 850 || counts["b"] > 1150) { // five standard deviations
				t.Errorf("chosen = %v, want about a quarter at the second", counts)
			}
		})
	}
}

// counting is a Rand that goes through all numbers, one after the other.
type counting struct{ next, n uint64 }

func (c *counting) Uint64N(n uint64) uint64 {
	c.n = n
	c.next++
	return c.next - 1
}

// Whatever the endpoints are: only those that could serve and that rank best
// are chosen, each exactly as often as its capacity says.
func TestBalanceProperty(t *testing.T) {
	names := rapid.SampledFrom([]string{"", "x", "y"})
	place := func(t *rapid.T, uid string) *workload.Workload {
		w := pod(uid, locality(names.Draw(t, "region"), names.Draw(t, "zone"), ""), on(names.Draw(t, "network")))
		w.Capacity = uint32(rapid.IntRange(0, 4).Draw(t, "capacity"))
		return w
	}
	rapid.Check(t, func(rt *rapid.T) {
		src := place(rt, "source")
		svc := service("s", "", ports(80, uint16(rapid.SampledFrom([]int{0, 8080}).Draw(rt, "target"))))
		svc.LoadBalancer = &workload.LoadBalancer{
			Mode:        rapid.SampledFrom([]workload.Mode{workload.ModeStandard, strict, failover}).Draw(rt, "mode"),
			Preferences: rapid.SliceOfN(rapid.SampledFrom([]workload.Scope{region, zone, network}), 0, 3).Draw(rt, "preferences"),
		}
		items := []any{svc}
		all := map[string]*workload.Workload{}
		for i := range rapid.IntRange(0, 6).Draw(rt, "endpoints") {
			w := place(rt, fmt.Sprint("w", i))
			if rapid.Bool().Draw(rt, "has address") {
				at("127.0.0.2")(w)
			}
			if rapid.Bool().Draw(rt, "has gateway") {
				w.NetworkGateway = gwAddr("/1.1.1.1:1")
			}
			in("s", 80, 8080)(w)
			if rapid.Bool().Draw(rt, "lacks port") {
				in("s")(w)
			}
			all[w.UID] = w
			items = append(items, weightless{w})
		}
		s := world(t, items...)

		// The model: score everybody by the words of the rule.
		want, best := map[string]int{}, -1
		for uid, w := range all {
			if len(w.Addrs) == 0 && (w.NetworkGateway == nil || w.Network == src.Network) {
				continue
			}
			if svc.Ports[80] == 0 && len(w.Services[svc.Key()]) == 0 {
				continue
			}
			score, perfect := modelScore(svc.LoadBalancer, src, w)
			if svc.LoadBalancer.Mode == strict && !perfect {
				continue
			}
			if score > best {
				best, want = score, map[string]int{}
			}
			if score == best && w.Capacity > 0 {
				want[uid] = int(w.Capacity)
			}
		}

		rnd := &counting{}
		got := map[string]int{}
		for {
			p := picker{Store: s, Request: &Request{Source: src}, rnd: rnd}
			e, ok := p.balance(svc, 80, standardMode)
			if !ok {
				break
			}
			got[e.Workload.UID]++
			if rnd.next == rnd.n {
				break
			}
		}
		if !maps.Equal(got, want) {
			rt.Fatalf("chosen %v, want %v", got, want)
		}
	})
}

// modelScore is the number of leading matches, with the exceptions for the
// network, written as plainly as possible.
func modelScore(lb *workload.LoadBalancer, src, w *workload.Workload) (score int, perfect bool) {
	if lb.Mode == workload.ModeStandard {
		return 0, true
	}
	matches := make([]bool, len(lb.Preferences))
	for i, scope := range lb.Preferences {
		matches[i] = map[workload.Scope]bool{
			region: src.Locality.Region == w.Locality.Region, zone: src.Locality.Zone == w.Locality.Zone, network: src.Network == w.Network,
		}[scope]
	}
	perfect = !slices.Contains(matches, false)
	rest := matches
	if len(matches) > 0 && lb.Preferences[0] == network {
		if matches[0] {
			score = len(matches)
		}
		rest = matches[1:]
	}
	for _, m := range rest {
		if !m {
			break
		}
		score++
	}
	return score, perfect
}

func BenchmarkPick(b *testing.B) {
	src := source()
	big := service("big", "/10.0.0.3")
	items := []any{
		src, pod("w", at("127.0.0.2")), service("s", "/10.0.0.1"), pod("e", at("127.0.0.3"), in("s")),
		service("v", "/10.0.0.2", serviceVia(gwAddr("/127.0.0.2:15008"))), big,
	}
	for i := range 1000 {
		items = append(items, pod(fmt.Sprint("big", i), at(fmt.Sprintf("127.1.%d.%d", i/250, i%250)), in("big")))
	}
	s := world(b, items...)
	for _, bench := range []struct{ name, target string }{
		{"passthrough", "1.2.3.4:80"}, {"workload", "127.0.0.2:80"}, {"service", "10.0.0.1:80"}, {"waypoint", "10.0.0.2:80"}, {"service of 1000", "10.0.0.3:80"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			r := &Request{Source: src, Client: netip.MustParseAddrPort("127.0.0.1:1"), Target: netip.MustParseAddrPort(bench.target)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Pick(s, r, Random{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A decision for a service of a thousand endpoints among a hundred thousand workloads.
func BenchmarkPickLargeMesh(b *testing.B) {
	src := source()
	items := []any{src, service("big", "/10.255.0.1")}
	for i := range 100_000 {
		name := "big"
		if i >= 1000 {
			if name = fmt.Sprint("s", i/10); i%10 == 0 {
				items = append(items, service(name, fmt.Sprintf("/10.254.%d.%d", i/10>>8, i/10&255)))
			}
		}
		items = append(items, pod(fmt.Sprint("w", i), at(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)), in(name, 80, 8080)))
	}
	s := world(b, items...)
	r := &Request{Source: src, Client: netip.MustParseAddrPort("127.0.0.1:1"), Target: netip.MustParseAddrPort("10.255.0.1:80")}
	for range 20_000 { // each endpoint's first connection prepares something
		if _, err := Pick(s, r, Random{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Pick(s, r, Random{}); err != nil {
			b.Fatal(err)
		}
	}
}

// The price of a decision in allocations: the authority.
func TestPickAllocations(t *testing.T) {
	src := source()
	s := world(t, src, pod("w", at("127.0.0.2")), pod("plain", at("127.0.0.4"), plain), service("s", "/10.0.0.1"), pod("e", at("127.0.0.3"), in("s")))
	for target, budget := range map[string]float64{"1.2.3.4:80": 0, "127.0.0.4:80": 0, "127.0.0.2:80": 1, "10.0.0.1:80": 1} {
		r := &Request{Source: src, Client: netip.MustParseAddrPort("127.0.0.1:1"), Target: netip.MustParseAddrPort(target)}
		if got := testing.AllocsPerRun(100, func() { Pick(s, r, Random{}) }); got > budget {
			t.Errorf("%v allocations for %s, want at most %v", got, target, budget)
		}
	}
}
