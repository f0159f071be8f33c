package control

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/api/workloadapi"
)

// model is a plane and its clients, without connections: what a client holds is
// what the responses say.
type model struct {
	p       *Plane
	truth   map[string]string   // versions by name
	clients []*stream           // that of an index asks for everything, the others on demand
	held    []map[string]string // by client
}

// Whatever changes and whoever reconnects when, a client that has been told all
// holds what there is, or of it what it asked for, with nothing told twice.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		m := &model{p: p, truth: map[string]string{}}
		for i := range 3 {
			m.clients = append(m.clients, nil)
			m.held = append(m.held, map[string]string{})
			m.connect(i)
		}
		t.Repeat(map[string]func(*rapid.T){
			"pod":       m.pod,
			"service":   m.service,
			"remove":    m.remove,
			"ask":       m.ask,
			"tell":      func(t *rapid.T) { m.tell(t, rapid.IntRange(0, 2).Draw(t, "client")) },
			"reconnect": func(t *rapid.T) { m.reconnect(rapid.IntRange(0, 2).Draw(t, "client")) },
		})
		for i := range m.clients {
			m.tell(t, i)
		}
	})
}

func draw(t *rapid.T, what string, n int) int { return rapid.IntRange(0, n-1).Draw(t, what) }

func (m *model) update(t *rapid.T, u Update) {
	if err := m.p.Update(u); err != nil {
		t.Fatal(err)
	}
	m.truth = map[string]string{}
	for name, e := range m.p.store.byName[addresses] {
		m.truth[name] = e.version
	}
}

func (m *model) pod(t *rapid.T) {
	spec := PodSpec{
		Namespace: "n", Name: fmt.Sprint(draw(t, "pod", 4)), Node: fmt.Sprint(draw(t, "node", 2)),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(draw(t, "address", 4))})},
	}
	if draw(t, "endpoint", 2) == 1 {
		spec.Services = append(spec.Services, Service(ServiceSpec{Namespace: "n", Name: fmt.Sprint(draw(t, "of", 2))}))
	}
	m.update(t, Update{Workloads: []*workloadapi.Workload{Pod(spec)}})
}

func (m *model) service(t *rapid.T) {
	m.update(t, Update{Services: []*workloadapi.Service{Service(ServiceSpec{
		Namespace: "n", Name: fmt.Sprint(draw(t, "service", 2)),
		VIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 9, 0, byte(draw(t, "vip", 2))})},
	})}})
}

func (m *model) remove(t *rapid.T) {
	if len(m.truth) == 0 {
		return
	}
	names := make([]string, 0, len(m.truth))
	for name := range m.truth {
		names = append(names, name)
	}
	slices.Sort(names)
	m.update(t, Update{Remove: Names{Workloads: []string{names[draw(t, "name", len(names))]}}})
}

func (m *model) connect(i int) {
	s := &stream{wake: make(chan struct{}, 1)}
	r := &discoveryapi.DeltaDiscoveryRequest{InitialResourceVersions: map[string]string{}}
	maps.Copy(r.InitialResourceVersions, m.held[i])
	if i > 0 {
		r.ResourceNamesSubscribe, r.ResourceNamesUnsubscribe = []string{"*"}, []string{"*"}
	}
	s.watches[addresses] = newWatch(addresses, "", r)
	m.clients[i] = s
	m.p.streams[s] = struct{}{}
}

func (m *model) reconnect(i int) {
	delete(m.p.streams, m.clients[i])
	m.connect(i)
}

func (m *model) ask(t *rapid.T) {
	keys := []string{"n/0.n.svc.cluster.local", "/10.0.0.1", "/10.9.0.1", "Kubernetes//Pod/n/2"}
	i, key := 1+draw(t, "client", 2), keys[draw(t, "key", len(keys))]
	m.tell(t, i)
	m.clients[i].watches[addresses].subscribe(&discoveryapi.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{key}})
	m.tell(t, i)
	found := map[string]*entry{}
	known := m.p.store.find(addresses, key, found)
	for name := range found {
		if _, ok := m.held[i][name]; !ok {
			t.Fatalf("client %d asked for %s and does not hold %s", i, key, name)
		}
	}
	if _, ok := m.held[i][key]; ok && !known {
		t.Fatalf("client %d holds %s, which is not there", i, key)
	}
}

// tell gives a client what is due and checks what it holds then.
func (m *model) tell(t *rapid.T, i int) {
	if r := m.p.response(m.clients[i], addresses); r != nil {
		for _, resource := range r.GetResources() {
			m.held[i][resource.GetName()] = resource.GetVersion()
		}
		for _, name := range r.GetRemovedResources() {
			if _, ok := m.held[i][name]; !ok && i == 0 {
				t.Fatalf("client is told of the end of %s, which it does not hold", name)
			}
			delete(m.held[i], name)
		}
	}
	if r := m.p.response(m.clients[i], addresses); r != nil {
		t.Fatalf("client %d is told twice: %v", i, r)
	}
	if i == 0 {
		if diff := cmp.Diff(m.truth, m.held[0]); diff != "" {
			t.Fatalf("client that wants everything (-there +held):\n%s", diff)
		}
		return
	}
	for name, version := range m.held[i] {
		if m.truth[name] != version {
			t.Fatalf("client %d holds version %q of %s, want %q", i, version, name, m.truth[name])
		}
	}
	// With a service come its workloads, whenever they do.
	for name := range m.held[i] {
		for workload := range m.p.store.byService[name] {
			if _, ok := m.held[i][workload.name]; !ok {
				t.Fatalf("client %d holds %s and not %s behind it", i, name, workload.name)
			}
		}
	}
}
