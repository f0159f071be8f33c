package control

import (
	"fmt"
	"net/netip"
	"testing"

	"ztunnel/proxy/api/workloadapi"
)

// many is a big mesh: pods on a hundred nodes, ten to a service.
func many(n int) []*workloadapi.Workload {
	pods := make([]*workloadapi.Workload, n)
	for i := range pods {
		svc := Service(ServiceSpec{Namespace: "shop", Name: fmt.Sprint("s", i/10), Ports: []Port{{Port: 80, Target: 8080}}})
		pods[i] = Pod(PodSpec{
			Namespace: "shop", Name: fmt.Sprint("p", i), ServiceAccount: fmt.Sprint("a", i%500), Node: fmt.Sprint("node", i%100), Captured: true,
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}, Services: []*workloadapi.Service{svc},
		})
	}
	return pods
}

// BenchmarkUpdate is one change of one pod of 100,000, told to ten clients.
func BenchmarkUpdate(b *testing.B) {
	p, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	pods := many(100_000)
	if err := p.Update(Update{Workloads: pods}); err != nil {
		b.Fatal(err)
	}
	m := &model{p: p}
	for range 10 {
		m.clients, m.held = append(m.clients, nil), append(m.held, nil)
		m.connect(0)
		p.response(m.clients[0], addresses)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		pod := pods[i%len(pods)]
		pod.Status = 1 - pod.GetStatus()
		if err := p.Update(Update{Workloads: []*workloadapi.Workload{pod}}); err != nil {
			b.Fatal(err)
		}
		for s := range p.streams {
			if r := p.response(s, addresses); len(r.GetResources()) != 1 {
				b.Fatalf("response of %d resources, want 1", len(r.GetResources()))
			}
		}
	}
}

// BenchmarkFirstResponse is what a client of 100,000 pods costs when it connects,
// without the encoding.
func BenchmarkFirstResponse(b *testing.B) {
	p, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	if err := p.Update(Update{Workloads: many(100_000)}); err != nil {
		b.Fatal(err)
	}
	m := &model{p: p, clients: []*stream{nil}, held: []map[string]string{nil}}
	b.ReportAllocs()
	for b.Loop() {
		m.connect(0)
		if r := p.response(m.clients[0], addresses); len(r.GetResources()) != 100_000 {
			b.Fatalf("response of %d resources, want 100000", len(r.GetResources()))
		}
		delete(p.streams, m.clients[0])
	}
}
