package workload

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Every scope compares its own field, and unknown equals unknown.
func TestScopes(t *testing.T) {
	set := map[Scope]func(*Workload){
		ScopeRegion:  func(w *Workload) { w.Locality.Region = "x" },
		ScopeZone:    func(w *Workload) { w.Locality.Zone = "x" },
		ScopeSubzone: func(w *Workload) { w.Locality.Subzone = "x" },
		ScopeNode:    func(w *Workload) { w.Node = "x" },
		ScopeCluster: func(w *Workload) { w.ClusterID = "x" },
		ScopeNetwork: func(w *Workload) { w.Network = "x" },
	}
	for scope := range set {
		for other, change := range set {
			a, b := pod("a", ""), pod("b", "")
			if !near(scope, a, b) {
				t.Errorf("near(%s) of unknown = false, want true", scope)
			}
			change(b)
			if got := near(scope, a, b); got != (scope != other) {
				t.Errorf("near(%s) with different %s = %t", scope, other, got)
			}
			change(a)
			if !near(scope, a, b) {
				t.Errorf("near(%s) with equal %s = false, want true", scope, other)
			}
		}
	}
	if near(0, pod("a", ""), pod("a", "")) {
		t.Error("near of an unknown scope = true, want false")
	}
}

// counting is a Rand that goes through all numbers, one after the other.
type counting struct{ next, n uint64 }

func (c *counting) Uint64N(n uint64) uint64 {
	c.n = n
	c.next++
	return c.next - 1
}

// shares returns how often each endpoint is chosen if each random number comes once.
func shares(s *Store, svc *Service, wish *Wish) map[string]int {
	got, rnd := map[string]int{}, &counting{}
	for {
		e, ok := s.Choose(svc, wish, rnd)
		if !ok {
			return got
		}
		got[fmt.Sprint(e.Workload.UID, e.Ports)]++
		if rnd.next == rnd.n {
			return got
		}
	}
}

// naiveShares is shares by the words of the rule: every endpoint that could serve is scored by itself.
func naiveShares(s *Store, svc *Service, wish *Wish) map[string]int {
	svc = s.Service(svc.Key())
	if svc == nil {
		return map[string]int{}
	}
	c, ok := newChoice(svc, wish)
	if !ok {
		return map[string]int{}
	}
	want, best := map[string]int{}, -1
	for _, e := range s.Endpoints(svc) {
		rank, ok := c.rank(e.Workload, e.Ports)
		if !ok {
			continue
		}
		if rank > best {
			best, want = rank, map[string]int{}
		}
		if rank == best && e.Workload.Capacity > 0 {
			want[fmt.Sprint(e.Workload.UID, e.Ports)] += int(e.Workload.Capacity)
		}
	}
	return want
}

// balanced is a random service.
func balanced(t *rapid.T) *Service {
	scopes := rapid.SliceOfN(rapid.SampledFrom([]Scope{ScopeRegion, ScopeZone, ScopeSubzone, ScopeNode, ScopeCluster, ScopeNetwork}), 0, 4)
	svc := service(web)
	svc.Ports = PortMap{80: rapid.SampledFrom([]uint16{0, 8080}).Draw(t, "target")}
	svc.LoadBalancer = &LoadBalancer{
		Mode:        rapid.SampledFrom([]Mode{ModeStandard, ModeStrict, ModeFailover}).Draw(t, "mode"),
		Preferences: scopes.Draw(t, "preferences"), HealthPolicy: rapid.SampledFrom([]HealthPolicy{OnlyHealthy, AllowAll}).Draw(t, "health policy"),
	}
	return svc
}

// somewhere is a workload of random place, health, capacity and reach, mostly an endpoint.
func somewhere(t *rapid.T, uid string) *Workload {
	name := rapid.SampledFrom([]string{"", "x", "y"})
	w := pod(uid, "")
	if rapid.IntRange(0, 3).Draw(t, "dialable") > 0 {
		w.Addrs = []netip.Addr{ip("10.0.0.1")}
	}
	w.Capacity = rapid.Uint32Range(0, 3).Draw(t, "capacity")
	w.Network = name.Draw(t, "network")
	w.Locality = Locality{name.Draw(t, "region"), name.Draw(t, "zone"), name.Draw(t, "subzone")}
	w.Node, w.ClusterID = name.Draw(t, "node"), name.Draw(t, "cluster")
	if rapid.Bool().Draw(t, "gateway") {
		w.NetworkGateway = &Gateway{Address: vip("10.9.9.9"), Port: 15008}
	}
	if rapid.Bool().Draw(t, "tunnel") {
		w.ApplicationTunnel = &ApplicationTunnel{Port: 9}
	}
	w.Status = rapid.SampledFrom([]Status{Healthy, Healthy, Unhealthy}).Draw(t, "status")
	if rapid.IntRange(0, 5).Draw(t, "endpoint") > 0 {
		w.Services = map[NamespacedHostname]PortMap{web: rapid.SampledFrom([]PortMap{{}, {80: 8080}, {80: 8081, 81: 1}}).Draw(t, "ports")}
	}
	return w
}

// Whatever comes, changes and goes: among whom connections are divided, and how, is what looking at each endpoint finds.
func TestChooseIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewStore(Config{})
		svc := balanced(t)
		u := Update{Services: []*Service{svc}}
		size := rapid.SampledFrom([]int{3, fewEndpoints + 1, 4 * fewEndpoints}).Draw(t, "endpoints")
		uid := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("w", rapid.IntRange(0, size+3).Draw(t, "uid")) })
		for i := range size {
			u.Workloads = append(u.Workloads, somewhere(t, fmt.Sprint("w", i)))
		}
		s.Apply(u)
		wishes := make([]Wish, 3)
		for i := range wishes {
			wishes[i] = Wish{somewhere(t, "source"), rapid.SampledFrom([]uint16{80, 81}).Draw(t, "port"), rapid.Bool().Draw(t, "waypoint")}
		}
		check := func(t *rapid.T) {
			for i := range wishes {
				for range 2 { // the second time with what the first one has prepared
					if diff := cmp.Diff(naiveShares(s, svc, &wishes[i]), shares(s, svc, &wishes[i])); diff != "" {
						t.Fatalf("%+v (-want +got):\n%s", wishes[i], diff)
					}
				}
			}
		}
		check(t)
		t.Repeat(map[string]func(*rapid.T){
			"": check,
			"put": func(t *rapid.T) {
				put(s, somewhere(t, uid.Draw(t, "uid")), somewhere(t, uid.Draw(t, "uid")))
			},
			"remove":      func(t *rapid.T) { s.Apply(Update{RemovedWorkloads: []string{uid.Draw(t, "uid")}}) },
			"put service": func(t *rapid.T) { put(s, balanced(t)) },
			"put service like the last": func(t *rapid.T) {
				if old := s.Service(web); old != nil {
					svc := copyOf(old)
					svc.Ports = PortMap{80: rapid.SampledFrom([]uint16{0, 8080, 9090}).Draw(t, "target")}
					put(s, svc)
				}
			},
			"remove service": func(*rapid.T) { s.Apply(Update{RemovedServices: []NamespacedHostname{web}}) },
			"put static": func(t *rapid.T) {
				given := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) StaticEndpoint {
					return StaticEndpoint{Key: uid.Draw(t, "key"), WorkloadUID: uid.Draw(t, "uid"), Ports: PortMap{80: 7}, Status: Healthy}
				}), 0, 3)
				s.Apply(Update{ServiceEndpoints: map[NamespacedHostname][]StaticEndpoint{web: given.Draw(t, "static")}})
			},
		})
	})
}

// A change of one endpoint, or of what does not divide them, leaves what was prepared for the others.
func TestClassesStay(t *testing.T) {
	s, svc, workloads := spread(t, 1000, ScopeZone)
	wish := &Wish{Source: workloads[0], Port: 80}
	choose := func() {
		if _, ok := s.Choose(svc, wish, random{}); !ok {
			t.Fatal("no endpoint")
		}
	}
	choose()
	before := s.ix.services[web].classes.Load()
	s.Apply(Update{RemovedWorkloads: []string{"1", "999"}})
	put(s, pod("1", "10.0.0.1", web), unhealthy(copyOf(workloads[5])))
	moved := copyOf(svc)
	moved.VIPs = []NetworkAddress{vip("10.1.0.1")}
	put(s, moved)
	choose()
	if after := s.ix.services[web].classes.Load(); before == nil || after != before {
		t.Error("the classes were made anew")
	}
	if n := testing.AllocsPerRun(100, choose); n > 0 {
		t.Errorf("a choice makes %v allocations, want none", n)
	}
	put(s, balancedBy(svc, ScopeNode))
	choose()
	if after := s.ix.services[web].classes.Load(); after == before {
		t.Error("the classes are those of other preferences")
	}
}

// balancedBy is the service with another preference.
func balancedBy(svc *Service, scope Scope) *Service {
	svc = copyOf(svc)
	svc.LoadBalancer = &LoadBalancer{Mode: ModeFailover, Preferences: []Scope{scope}}
	return svc
}

// An endpoint given with a large service gives way to one that says so itself, and comes back with its end, also if it stands
// for another workload.
func TestChooseStaticOfLargeService(t *testing.T) {
	s, svc, workloads := spread(t, 100)
	s.Apply(Update{ServiceEndpoints: map[NamespacedHostname][]StaticEndpoint{web: {{Key: "late", WorkloadUID: "other", Ports: PortMap{80: 7}}}}})
	put(s, pod("other", "10.9.0.1"))
	wish := &Wish{Source: workloads[0], Port: 80}
	for _, step := range []struct {
		change func()
		want   int
	}{
		{func() {}, 101},
		{func() { put(s, pod("late", "10.9.0.2", web)) }, 101},
		{func() { s.Apply(Update{RemovedWorkloads: []string{"late"}}) }, 101},
		{func() { s.Apply(Update{RemovedWorkloads: []string{"other"}}) }, 100},
	} {
		step.change()
		got := shares(s, svc, wish)
		if diff := cmp.Diff(naiveShares(s, svc, wish), got); diff != "" || len(got) != step.want {
			t.Errorf("%d are chosen, want %d (-want +got):\n%s", len(got), step.want, diff)
		}
	}
}

// Choices and a writer at the same time; the race detector judges.
func TestChooseConcurrently(t *testing.T) {
	s, svc, workloads := spread(t, 1000, ScopeNode)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for i := range 3 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if e, ok := s.Choose(svc, &Wish{Source: workloads[i], Port: 80}, random{}); ok && e.Workload.Status == Unhealthy {
					t.Error("an unhealthy endpoint was chosen")
				}
			}
		})
	}
	for i := range 2000 {
		w := copyOf(workloads[i%1000])
		w.Status = []Status{Unhealthy, Healthy}[i/7%2]
		put(s, w)
		switch i % 100 {
		case 50:
			s.Apply(Update{RemovedServices: []NamespacedHostname{web}})
		case 51:
			put(s, svc)
		}
	}
	close(done)
	readers.Wait()
}
