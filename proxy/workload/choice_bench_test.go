package workload

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// random is a Rand.
type random struct{}

func (random) Uint64N(n uint64) uint64 { return rand.Uint64N(n) }

// spread is a service of so many endpoints on as many nodes as a cluster of that size has, in three zones, preferred by the
// scopes.
func spread(tb testing.TB, endpoints int, scopes ...Scope) (s *Store, svc *Service, workloads []*Workload) {
	tb.Helper()
	s, svc = NewStore(Config{}), service(web)
	if len(scopes) > 0 {
		svc.LoadBalancer = &LoadBalancer{Mode: ModeFailover, Preferences: scopes}
	}
	u := Update{Services: []*Service{svc}}
	for i := range endpoints {
		w := pod(fmt.Sprint(i), fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), web)
		node := i % max(1, endpoints/50)
		w.Node, w.Locality = fmt.Sprint("node", node), Locality{Region: "region", Zone: fmt.Sprint("zone", node%3)}
		u.Workloads = append(u.Workloads, w)
	}
	s.Apply(u)
	return s, svc, u.Workloads
}

// The choice of an endpoint takes the same time however many there are.
func BenchmarkChoose(b *testing.B) {
	for _, endpoints := range []int{10, 1000, 50_000} {
		for name, scopes := range map[string][]Scope{
			"any": nil, "same zone": {ScopeNetwork, ScopeRegion, ScopeZone}, "same node": {ScopeNetwork, ScopeRegion, ScopeZone, ScopeNode},
			"other nodes": {ScopeNode},
		} {
			b.Run(fmt.Sprintf("%s of %d", name, endpoints), func(b *testing.B) {
				s, svc, workloads := spread(b, endpoints, scopes...)
				source := copyOf(workloads[len(workloads)/2])
				if name == "other nodes" {
					source.Node = "elsewhere"
				}
				wish := &Wish{Source: source, Port: 80}
				b.ReportAllocs()
				for b.Loop() {
					if _, ok := s.Choose(svc, wish, random{}); !ok {
						b.Fatal("no endpoint")
					}
				}
			})
		}
	}
}

// One endpoint of a large service comes or goes, and a connection follows.
func BenchmarkChooseAfterChange(b *testing.B) {
	for _, endpoints := range []int{1000, 50_000} {
		for name, scopes := range map[string][]Scope{"any": nil, "same node": {ScopeNetwork, ScopeRegion, ScopeZone, ScopeNode}} {
			b.Run(fmt.Sprintf("%s of %d", name, endpoints), func(b *testing.B) {
				s, svc, workloads := spread(b, endpoints, scopes...)
				wish := &Wish{Source: workloads[len(workloads)/2], Port: 80}
				s.Choose(svc, wish, random{})
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					if w := workloads[i/2%endpoints]; i%2 == 0 {
						s.Apply(Update{RemovedWorkloads: []string{w.UID}})
					} else {
						put(s, w)
					}
					s.Choose(svc, wish, random{})
					i++
				}
			})
		}
	}
}

// The first choice after a change of the service itself.
func BenchmarkChooseAfterChangeOfService(b *testing.B) {
	s, svc, workloads := spread(b, 50_000, ScopeNetwork, ScopeRegion, ScopeZone)
	wish := &Wish{Source: workloads[0], Port: 80}
	for b.Loop() {
		put(s, svc)
		s.Choose(svc, wish, random{})
	}
}
