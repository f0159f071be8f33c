package workload

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"testing"
)

// bigUpdate is a mesh of so many pods in services of fifty, each with an address.
func bigUpdate(pods int) Update {
	var u Update
	in := NewInterner()
	var services map[NamespacedHostname]PortMap
	for i := range pods {
		n := i / 50
		key := NamespacedHostname{fmt.Sprint("ns", n%100), fmt.Sprintf("svc-%d.ns%d.svc.cluster.local", n, n%100)}
		if i%50 == 0 {
			s := service(key)
			s.VIPs = []NetworkAddress{{Addr: netip.AddrFrom4([4]byte{10, 96, byte(n >> 8), byte(n)})}}
			u.Services = append(u.Services, s)
			services = map[NamespacedHostname]PortMap{key: {80: 8080, 443: 8443}}
		}
		uid := fmt.Sprintf("Kubernetes//Pod/ns%d/pod-%d", n%100, i)
		u.Workloads = append(u.Workloads, &Workload{
			UID: uid, Name: fmt.Sprint("pod-", i), Namespace: in.string(key.Namespace), TrustDomain: "cluster.local", ServiceAccount: "default",
			Node: in.string(fmt.Sprint("node", i%500)), ClusterID: "Kubernetes", Protocol: HBONE, Capacity: 1, WorkloadType: "pod",
			Addrs:    []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})},
			Services: services,
		})
	}
	return u
}

func bigStore(tb testing.TB, pods int) *Store {
	tb.Helper()
	s := NewStore(Config{NodeName: "node1"})
	s.Apply(bigUpdate(pods))
	return s
}

func BenchmarkWorkload(b *testing.B) {
	s := bigStore(b, 10_000)
	addr := netip.MustParseAddr("10.0.3.7")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if s.Workload("", addr) == nil {
				b.Error("not found")
			}
		}
	})
}

func BenchmarkServiceByVIP(b *testing.B) {
	s := bigStore(b, 10_000)
	addr := netip.MustParseAddr("10.96.0.7")
	b.ReportAllocs()
	for b.Loop() {
		if s.ServiceByVIP("", addr, "ns1", true) == nil {
			b.Fatal("not found")
		}
	}
}

func BenchmarkServiceByCIDR(b *testing.B) {
	s := bigStore(b, 10_000)
	for i, c := range []string{"10.128.0.0/9", "172.16.0.0/12", "192.168.0.0/16", "10.200.0.0/24"} {
		put(s, service(NamespacedHostname{"ns", fmt.Sprint("r", i)}, c))
	}
	addr := netip.MustParseAddr("10.200.0.7")
	b.ReportAllocs()
	for b.Loop() {
		if s.ServiceByVIP("", addr, "ns1", true) == nil {
			b.Fatal("not found")
		}
	}
}

func BenchmarkEndpoints(b *testing.B) {
	s := bigStore(b, 10_000)
	svc := s.ServiceByVIP("", netip.MustParseAddr("10.96.0.7"), "", false)
	b.ReportAllocs()
	for b.Loop() {
		if len(s.Endpoints(svc)) != 50 {
			b.Fatal("not 50")
		}
	}
}

// One pod of a service of ten thousand changes, and the service is used after each change.
func BenchmarkRollingEndpoint(b *testing.B) {
	s := NewStore(Config{})
	u := Update{Services: []*Service{service(web)}}
	for i := range 10_000 {
		u.Workloads = append(u.Workloads, pod(fmt.Sprint(i), "", web))
	}
	s.Apply(u)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s.Apply(Update{Workloads: u.Workloads[i%10_000 : i%10_000+1]})
		s.Endpoints(s.Service(web))
		i++
	}
}

func BenchmarkApplyAll(b *testing.B) {
	u := bigUpdate(50_000)
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			NewStore(Config{NodeName: "node1"}).Apply(u)
		}
	})
	b.Run("again", func(b *testing.B) {
		s := NewStore(Config{NodeName: "node1"})
		s.Apply(u)
		for b.Loop() {
			s.Apply(u)
		}
	})
}

func BenchmarkFromProto(b *testing.B) {
	c := readCapture(b, "01-initial-sync")
	in := NewInterner()
	b.ReportAllocs()
	for b.Loop() {
		for _, a := range c.addresses {
			if _, _, err := FromProto(a, in); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(len(c.addresses)), "resources/op")
}

// The heap that one pod costs, all tables included.
func BenchmarkMemory(b *testing.B) {
	const pods = 50_000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := bigStore(b, pods)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/pods, "B/pod")
		runtime.KeepAlive(s)
	}
}

func TestLookupsDoNotAllocate(t *testing.T) {
	s := bigStore(t, 1000)
	put(s, service(web, "10.200.0.0/24"))
	svc := s.ServiceByVIP("", ip("10.96.0.7"), "", false)
	s.Endpoints(svc)
	for name, f := range map[string]func(){
		"Workload":          func() { s.Workload("", ip("10.0.0.1")) },
		"WorkloadByUID":     func() { s.WorkloadByUID("Kubernetes//Pod/ns0/pod-0") },
		"ServiceByVIP":      func() { s.ServiceByVIP("", ip("10.96.0.7"), "x", true) },
		"ServiceByVIP CIDR": func() { s.ServiceByVIP("", ip("10.200.0.7"), "x", true) },
		"ServiceByHostname": func() { s.ServiceByHostname(web.Hostname, "x", true) },
		"Service":           func() { s.Service(web) },
		"Endpoints":         func() { s.Endpoints(svc) },
		"LocalChanged":      func() { s.LocalChanged() },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times, want 0", name, n)
		}
	}
}

// Readers and a writer at the same time; the race detector judges.
func TestConcurrentReaders(t *testing.T) {
	s := NewStore(Config{})
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				changed := s.LocalChanged()
				w := s.Workload("", ip("10.0.0.1"))
				if svc := s.ServiceByVIP("", ip("10.1.0.1"), "shop", true); svc != nil {
					// The batches add and remove the pair together, so no reader may see one of them.
					if n := len(s.Endpoints(svc)); n != 0 && n != 2 {
						t.Errorf("Endpoints has %d, want both or none", n)
					}
				}
				s.ServicesOf(w)
				s.Workloads()
				s.DumpServices()
				s.StagedEndpoints()
				select {
				case <-done:
					return
				case <-changed:
				}
			}
		})
	}
	for i := range 2000 {
		switch i % 4 {
		case 0:
			put(s, pod("a", "10.0.0.1", web), pod("b", "10.0.0.2", web))
		case 1:
			put(s, service(web, "10.1.0.1"))
		case 2:
			s.Apply(Update{RemovedWorkloads: []string{"a", "b"}})
		case 3:
			s.Replace(nil, nil, nil)
		}
		runtime.Gosched()
	}
	close(done)
	wg.Wait()
}
