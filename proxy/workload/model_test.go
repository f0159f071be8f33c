package workload

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// model is the store in its most obvious form: lists in the order of storing, and lookups that look at everything.
type model struct {
	workloads []*Workload // the last stored last
	services  []*Service  // in the order in which they became known
	static    map[NamespacedHostname][]StaticEndpoint
}

func (m *model) putWorkload(w *Workload) {
	m.removeWorkload(w.UID)
	m.workloads = append(m.workloads, w)
}

func (m *model) removeWorkload(uid string) {
	m.workloads = slices.DeleteFunc(m.workloads, func(w *Workload) bool { return w.UID == uid })
}

func (m *model) putService(s *Service) {
	i := slices.IndexFunc(m.services, func(o *Service) bool { return o.Key() == s.Key() })
	if i < 0 {
		m.services = append(m.services, s)
	} else {
		m.services[i] = s
	}
}

func (m *model) removeService(key NamespacedHostname) {
	n := len(m.services)
	m.services = slices.DeleteFunc(m.services, func(s *Service) bool { return s.Key() == key })
	if len(m.services) < n {
		delete(m.static, key)
	}
}

func (m *model) workload(match func(*Workload) bool) string {
	best, bestRank := "", -1
	for _, w := range m.workloads {
		if rank := (&record{w: w}).rank(); match(w) && rank >= bestRank {
			best, bestRank = w.UID, rank
		}
	}
	return best
}

func (m *model) visible(match func(*Service) bool, ns string, has bool) []*Service {
	var out []*Service
	for _, s := range m.services {
		if match(s) && (!has || s.Visibility == VisibilityPublic || s.Namespace == ns) {
			out = append(out, s)
		}
	}
	return out
}

func (m *model) serviceBy(match func(*Service) bool, ns string, has bool) *Service {
	list := m.visible(match, ns, has)
	for _, s := range list {
		if has && s.Namespace == ns {
			return s
		}
	}
	for _, s := range slices.Backward(list) {
		if s.Canonical {
			return s
		}
	}
	if len(list) > 0 {
		return list[0]
	}
	return nil
}

func (m *model) serviceByVIP(a NetworkAddress, ns string, has bool) *Service {
	if s := m.serviceBy(func(s *Service) bool { return slices.Contains(s.VIPs, a) }, ns, has); s != nil {
		return s
	}
	var best *Service
	var bestScore [3]int
	for _, s := range m.visible(func(*Service) bool { return true }, ns, has) {
		for _, c := range s.CIDRVIPs {
			if c.Network != a.Network || !c.Prefix.Contains(a.Addr) {
				continue
			}
			score := [3]int{0, c.Prefix.Bits(), 0}
			if has && s.Namespace == ns {
				score[0] = 1
			}
			if s.Canonical {
				score[2] = 1
			}
			if best == nil || slices.Compare(score[:], bestScore[:]) > 0 {
				best, bestScore = s, score
			}
		}
	}
	return best
}

func (m *model) endpoints(s *Service) []string {
	var out []string
	for _, w := range m.workloads {
		if ports, ok := w.Services[s.Key()]; ok && s.Accepts(w.Status) {
			out = append(out, fmt.Sprint(w.UID, ports, w.Status))
		}
	}
	for _, e := range m.static[s.Key()] {
		overridden := slices.ContainsFunc(m.workloads, func(w *Workload) bool { _, ok := w.Services[s.Key()]; return ok && w.UID == e.Key })
		known := slices.ContainsFunc(m.workloads, func(w *Workload) bool { return w.UID == e.WorkloadUID })
		if known && !overridden && s.Accepts(e.Status) {
			out = append(out, fmt.Sprint(e.WorkloadUID, e.Ports, e.Status))
		}
	}
	slices.Sort(out)
	return out
}

// Small worlds make collisions likely.
var (
	modelUIDs  = []string{"c//Pod/a/1", "c//Pod/a/2", "c/x/WorkloadEntry/a/1", "c/x/ServiceEntry/a/1/2"}
	modelKeys  = []NamespacedHostname{{"a", "x"}, {"a", "y"}, {"b", "x"}, {"c", "z"}}
	modelAddrs = []string{"10.0.0.1", "10.0.0.2", "10.0.1.1", "2001:db8::1", "::ffff:10.0.0.1"}
	modelCIDRs = []string{"10.0.0.0/24", "10.0.0.1/24", "10.0.1.0/24", "10.0.0.0/16", "10.0.0.1/32", "2001:db8::/64", "0.0.0.0/0", "::/0"}
	modelNets  = []string{"", "nw"}
	modelNodes = []string{"n1", "n2"}
)

func drawAddrs(t *rapid.T) []netip.Addr {
	var out []netip.Addr
	for _, a := range rapid.SliceOfN(rapid.SampledFrom(modelAddrs), 0, 3).Draw(t, "addrs") {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func drawWorkload(t *rapid.T) *Workload {
	w := &Workload{
		UID: rapid.SampledFrom(modelUIDs).Draw(t, "uid"), Name: rapid.SampledFrom([]string{"p", "q"}).Draw(t, "name"), Namespace: "a",
		Network: rapid.SampledFrom(modelNets).Draw(t, "network"), Hostname: rapid.SampledFrom([]string{"", "h"}).Draw(t, "hostname"),
		Node: rapid.SampledFrom(modelNodes).Draw(t, "node"), Addrs: drawAddrs(t),
		Protocol:    Protocol(rapid.IntRange(0, 1).Draw(t, "protocol")),
		NetworkMode: NetworkMode(rapid.IntRange(0, 1).Draw(t, "mode")), Status: Status(rapid.IntRange(0, 1).Draw(t, "status")),
		Services: map[NamespacedHostname]PortMap{},
	}
	for _, key := range rapid.SliceOfN(rapid.SampledFrom(modelKeys), 0, 3).Draw(t, "services") {
		w.Services[key] = PortMap{80: uint16(rapid.IntRange(1, 3).Draw(t, "port"))}
	}
	return w
}

// copyOf copies what a record says.
func copyOf[T any](v *T) *T {
	out := new(T)
	from, to := reflect.ValueOf(v).Elem(), reflect.ValueOf(out).Elem()
	for i := range from.NumField() {
		if from.Type().Field(i).IsExported() {
			to.Field(i).Set(from.Field(i))
		}
	}
	return out
}

// drawAgain draws stored workloads that are sent again, some of them with a change that leaves their addresses alone.
func (m *model) drawAgain(t *rapid.T) []*Workload {
	var out []*Workload
	for _, w := range m.workloads {
		change := rapid.IntRange(0, 4).Draw(t, "again")
		if change == 0 {
			continue
		}
		w = copyOf(w)
		switch change {
		case 1:
			w.Status ^= Unhealthy
		case 2:
			w.Protocol ^= HBONE
		}
		out = append(out, w)
	}
	return out
}

func drawService(t *rapid.T) *Service {
	key := rapid.SampledFrom(modelKeys).Draw(t, "key")
	s := &Service{
		Namespace: key.Namespace, Hostname: key.Hostname, Canonical: rapid.Bool().Draw(t, "canonical"),
		Visibility: Visibility(rapid.IntRange(0, 1).Draw(t, "visibility")),
	}
	if rapid.Bool().Draw(t, "lb") {
		s.LoadBalancer = &LoadBalancer{HealthPolicy: HealthPolicy(rapid.IntRange(0, 1).Draw(t, "health"))}
	}
	for _, a := range drawAddrs(t) {
		s.VIPs = append(s.VIPs, NetworkAddress{rapid.SampledFrom(modelNets).Draw(t, "network"), a})
	}
	for _, c := range rapid.SliceOfN(rapid.SampledFrom(modelCIDRs), 0, 3).Draw(t, "cidrs") {
		s.CIDRVIPs = append(s.CIDRVIPs, CIDRVIP{rapid.SampledFrom(modelNets).Draw(t, "network"), netip.MustParsePrefix(c)})
	}
	return s
}

func drawStatic(t *rapid.T) []StaticEndpoint {
	var out []StaticEndpoint
	for _, uid := range rapid.SliceOfNDistinct(rapid.SampledFrom(modelUIDs), 0, 2, rapid.ID).Draw(t, "static") {
		out = append(out, StaticEndpoint{
			Key: uid, WorkloadUID: rapid.SampledFrom(modelUIDs).Draw(t, "of"),
			Ports: PortMap{80: 9}, Status: Status(rapid.IntRange(0, 1).Draw(t, "status")),
		})
	}
	return out
}

func uidOf(w *Workload) string {
	if w == nil {
		return ""
	}
	return w.UID
}

// sameService compares by content, for the store keeps its own of two that say the same.
func sameService(a, b *Service) bool {
	return a == b || a != nil && b != nil && cmp.Equal(a, b, sameRecord)
}

func (m *model) check(t *rapid.T, s *Store) {
	t.Helper()
	for _, nw := range modelNets {
		for _, a := range modelAddrs {
			key := NetworkAddress{nw, netip.MustParseAddr(a)}
			want := m.workload(func(w *Workload) bool {
				return w.NetworkMode != HostNetwork && w.Network == nw && slices.Contains(w.Addrs, key.Addr)
			})
			if got := uidOf(s.Workload(nw, key.Addr)); got != want {
				t.Fatalf("Workload(%s) = %q, want %q", key, got, want)
			}
			for _, ns := range []string{"a", "b", "d", ""} {
				if got, want := s.ServiceByVIP(nw, key.Addr, ns, ns != ""), m.serviceByVIP(key, ns, ns != ""); !sameService(got, want) {
					t.Fatalf("ServiceByVIP(%s, %q) = %v, want %v", key, ns, got, want)
				}
			}
		}
	}
	for _, uid := range modelUIDs {
		if got, want := uidOf(s.WorkloadByUID(uid)), m.workload(func(w *Workload) bool { return w.UID == uid }); got != want {
			t.Fatalf("WorkloadByUID(%s) = %q, want %q", uid, got, want)
		}
	}
	want := m.workload(func(w *Workload) bool { return w.Hostname == "h" })
	if got := uidOf(s.WorkloadByHostname(NamespacedHostname{"a", "h"})); got != want {
		t.Fatalf("WorkloadByHostname = %q, want %q", got, want)
	}
	want = m.workload(func(w *Workload) bool { return w.Name == "p" && w.Node == "n1" })
	if got := uidOf(s.Local(Info{Name: "p", Namespace: "a"})); got != want {
		t.Fatalf("Local = %q, want %q", got, want)
	}
	for _, key := range modelKeys {
		i := slices.IndexFunc(m.services, func(s *Service) bool { return s.Key() == key })
		if i < 0 {
			if s.Service(key) != nil {
				t.Fatalf("Service(%s) = %v, want none", key, s.Service(key))
			}
			continue
		}
		var got []string
		for _, e := range s.Endpoints(m.services[i]) {
			got = append(got, fmt.Sprint(e.Workload.UID, e.Ports, e.Status))
		}
		slices.Sort(got)
		if d := cmp.Diff(m.endpoints(m.services[i]), got); d != "" {
			t.Fatalf("Endpoints(%s) differ (-want +got):\n%s", key, d)
		}
	}
	for _, host := range []string{"x", "y", "z"} {
		for _, ns := range []string{"a", "b", "d", ""} {
			want := m.serviceBy(func(s *Service) bool { return s.Hostname == host }, ns, ns != "")
			if got := s.ServiceByHostname(host, ns, ns != ""); !sameService(got, want) {
				t.Fatalf("ServiceByHostname(%s, %q) = %v, want %v", host, ns, got, want)
			}
		}
	}
}

func TestStoreModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewStore(Config{NodeName: "n1"})
		m := &model{static: map[NamespacedHostname][]StaticEndpoint{}}
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				u := Update{
					Workloads:        append(m.drawAgain(t), rapid.SliceOfN(rapid.Custom(drawWorkload), 0, 4).Draw(t, "workloads")...),
					Services:         rapid.SliceOfN(rapid.Custom(drawService), 0, 3).Draw(t, "services"),
					RemovedWorkloads: rapid.SliceOfN(rapid.SampledFrom(modelUIDs), 0, 2).Draw(t, "removed workloads"),
					RemovedServices:  rapid.SliceOfN(rapid.SampledFrom(modelKeys), 0, 1).Draw(t, "removed services"),
				}
				if len(u.Services) > 0 && rapid.Bool().Draw(t, "static") {
					u.ServiceEndpoints = map[NamespacedHostname][]StaticEndpoint{u.Services[0].Key(): drawStatic(t)}
				}
				for _, svc := range m.services { // some are sent again as they are
					if rapid.Bool().Draw(t, "again") {
						u.Services = append(u.Services, copyOf(svc))
					}
				}
				u.Workloads = rapid.Permutation(u.Workloads).Draw(t, "order")
				s.Apply(u)
				for _, w := range u.Workloads {
					m.putWorkload(w)
				}
				for _, svc := range u.Services {
					m.putService(svc)
				}
				maps.Copy(m.static, u.ServiceEndpoints)
				for _, uid := range u.RemovedWorkloads {
					m.removeWorkload(uid)
				}
				for _, key := range u.RemovedServices {
					m.removeService(key)
				}
			},
			"replace": func(t *rapid.T) {
				workloads := rapid.SliceOfN(rapid.Custom(drawWorkload), 0, 4).Draw(t, "workloads")
				services := rapid.SliceOfN(rapid.Custom(drawService), 0, 3).Draw(t, "services")
				s.Replace(workloads, services, nil)
				*m = model{static: map[NamespacedHostname][]StaticEndpoint{}}
				for _, w := range workloads {
					m.putWorkload(w)
				}
				for _, svc := range services {
					m.putService(svc)
				}
			},
			"": func(t *rapid.T) { m.check(t, s) },
		})
		u := Update{RemovedWorkloads: modelUIDs, RemovedServices: modelKeys}
		s.Apply(u)
		for name, n := range map[string]int{
			"byUID": len(s.ix.byUID), "byAddr": len(s.ix.byAddr), "overlap": len(s.ix.overlap),
			"byHostname": len(s.ix.byHostname), "byInfo": len(s.ix.byInfo), "byHost": len(s.ix.byHost),
			"services": len(s.ix.services), "byVIP": len(s.ix.byVIP), "cidrs": len(s.ix.cidrs), "static": len(s.ix.static),
		} {
			if n != 0 {
				t.Fatalf("after everything was removed table %s has %d keys", name, n)
			}
		}
	})
}
