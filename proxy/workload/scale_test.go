package workload

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	api "ztunnel/proxy/api/workloadapi"
)

// The shape of a large mesh as the load test of this project sends it.
const (
	largeMesh           = 100_000
	workloadsPerService = 10
)

// wireMesh is a mesh of so many workloads in the form in which the control plane sends it: serialized addresses, each
// service before its workloads.
type wireMesh struct {
	resources [][]byte // all
	workloads [][]byte // those of workloads
	flipped   [][]byte // the same with their health changed
}

func marshal(tb testing.TB, m *api.Address) []byte {
	tb.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func newWireMesh(tb testing.TB, workloads int) *wireMesh {
	tb.Helper()
	m := &wireMesh{}
	var svc *api.Service
	for i := range workloads {
		if i%workloadsPerService == 0 {
			svc = wireService(i / workloadsPerService)
			m.resources = append(m.resources, marshal(tb, &api.Address{Type: &api.Address_Service{Service: svc}}))
		}
		w := wireWorkload(i, svc)
		raw := marshal(tb, &api.Address{Type: &api.Address_Workload{Workload: w}})
		m.resources, m.workloads = append(m.resources, raw), append(m.workloads, raw)
		w.Status = api.WorkloadStatus_UNHEALTHY
		m.flipped = append(m.flipped, marshal(tb, &api.Address{Type: &api.Address_Workload{Workload: w}}))
	}
	return m
}

func wireService(n int) *api.Service {
	name, namespace := fmt.Sprintf("service%d", n), fmt.Sprintf("namespace%d", n%100)
	return &api.Service{
		Name: name, Namespace: namespace, Hostname: name + "." + namespace + ".svc.cluster.local",
		Addresses: []*api.NetworkAddress{{Address: nthAddr(172, n)}},
		Ports:     []*api.Port{{ServicePort: 80, TargetPort: 80}, {ServicePort: 443, TargetPort: 443}},
	}
}

func wireWorkload(i int, svc *api.Service) *api.Workload {
	name := fmt.Sprintf("%s-7d4b9c6f5d-%05d", svc.Name, i)
	return &api.Workload{
		Uid: "Kubernetes//Pod/" + svc.Namespace + "/" + name, Name: name, Namespace: svc.Namespace,
		Addresses: [][]byte{nthAddr(10, i)}, ServiceAccount: svc.Name, ClusterId: "Kubernetes", Node: fmt.Sprintf("remote%d", i%1000),
		TunnelProtocol: api.TunnelProtocol_HBONE, CanonicalName: svc.Name, CanonicalRevision: "v1",
		WorkloadType: api.WorkloadType_DEPLOYMENT, WorkloadName: svc.Name,
		Services: map[string]*api.PortList{svc.Namespace + "/" + svc.Hostname: {Ports: svc.Ports}},
	}
}

func nthAddr(first byte, n int) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(n))
	b[0] = first
	return b
}

// decode converts serialized addresses.
func decode(tb testing.TB, resources [][]byte, in *Interner) Update {
	tb.Helper()
	var u Update
	for _, raw := range resources {
		var a api.Address
		if err := proto.Unmarshal(raw, &a); err != nil {
			tb.Fatal(err)
		}
		w, s, err := FromProto(&a, in)
		switch {
		case err != nil:
			tb.Fatal(err)
		case w != nil:
			u.Workloads = append(u.Workloads, w)
		default:
			u.Services = append(u.Services, s)
		}
	}
	return u
}

// settledHeap is the live heap in bytes.
func settledHeap() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// cpuTime is what the process has used, the garbage collector included.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// What a workload costs all in all, its share of the services and of every table included. The limit is a little above
// what it takes.
func TestLargeMeshMemory(t *testing.T) {
	const workloads = 20_000
	m := newWireMesh(t, workloads)
	before := settledHeap()
	in, s := NewInterner(), NewStore(Config{NodeName: "node1"})
	s.Apply(decode(t, m.resources, in))
	if got := (settledHeap() - before) / workloads; got > 770 {
		t.Errorf("%d workloads in a tenth as many services take %d bytes each, want at most 770", workloads, got)
	}
	runtime.KeepAlive(in)

	// What has been stored is not made bigger by changing all the time.
	before = settledHeap()
	for range 3 {
		s.Apply(decode(t, m.flipped, in))
		s.Apply(decode(t, m.workloads, in))
	}
	if got := int64(settledHeap()-before) / workloads; got > 20 {
		t.Errorf("changing all several times takes %d more bytes for each workload, want none", got)
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(m)
}

// A change of one workload costs a few allocations, whatever the size of the mesh.
func TestUpdateAllocations(t *testing.T) {
	m := newWireMesh(t, 1000)
	in, s := NewInterner(), NewStore(Config{NodeName: "node1"})
	s.Apply(decode(t, m.resources, in))
	var messages [2]api.Address
	for i, raw := range [][]byte{m.flipped[7], m.workloads[7]} {
		if err := proto.Unmarshal(raw, &messages[i]); err != nil {
			t.Fatal(err)
		}
	}
	list, i := make([]*Workload, 1), 0
	got := testing.AllocsPerRun(100, func() {
		var err error
		if list[0], _, err = FromProto(&messages[i%2], in); err != nil {
			t.Fatal(err)
		}
		s.Apply(Update{Workloads: list})
		i++
	})
	if got > 3 { // the workload, its addresses, the channel of Changed
		t.Errorf("a change of one workload makes %v allocations, want at most 3", got)
	}
	// Sent again as it is, nothing of it is kept.
	list[0] = copyOf(list[0])
	if got := testing.AllocsPerRun(100, func() { s.Apply(Update{Workloads: list}) }); got > 0 {
		t.Errorf("a workload that has not changed makes %v allocations, want none", got)
	}
}

// The state of a large mesh from serialized messages to the store: CPU of each part, and the live heap that remains.
func BenchmarkLargeMeshStart(b *testing.B) {
	m := newWireMesh(b, largeMesh)
	for b.Loop() {
		before := settledHeap()
		in, s := NewInterner(), NewStore(Config{NodeName: "node1"})
		startLargeMesh(b, m, s, in)
		after := settledHeap()
		b.ReportMetric(float64(after-before)/(1<<20), "live-MiB")
		runtime.KeepAlive(in)
		b.ReportMetric(float64(after-settledHeap())/(1<<20), "interner-MiB")
		runtime.KeepAlive(s)
	}
	runtime.KeepAlive(m)
}

func startLargeMesh(b *testing.B, m *wireMesh, s *Store, in *Interner) {
	b.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := cpuTime(b)
	u := decode(b, m.resources, in)
	decoded, begin := cpuTime(b), time.Now()
	s.Apply(u)
	b.ReportMetric(time.Since(begin).Seconds()*1000, "apply-ms")
	b.ReportMetric((cpuTime(b) - decoded).Seconds(), "apply-cpu-s")
	b.ReportMetric((decoded - start).Seconds(), "decode-cpu-s")
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/(1<<20), "allocated-MiB")
}

// One workload of a large mesh changes its health: from the serialized message to the store.
func BenchmarkLargeMeshUpdate(b *testing.B) {
	m := newWireMesh(b, largeMesh)
	in, s := NewInterner(), NewStore(Config{NodeName: "node1"})
	s.Apply(decode(b, m.resources, in))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		list := m.flipped
		if i/largeMesh%2 == 1 {
			list = m.workloads
		}
		s.Apply(decode(b, list[i%largeMesh:i%largeMesh+1], in))
		i++
	}
}

// The whole mesh is sent again, as after a reconnection: how long readers can be held up by it.
func BenchmarkLargeMeshAgain(b *testing.B) {
	m := newWireMesh(b, largeMesh)
	in, s := NewInterner(), NewStore(Config{NodeName: "node1"})
	s.Apply(decode(b, m.resources, in))
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		u := decode(b, m.resources, in)
		b.StartTimer()
		s.Apply(u)
	}
}

// The same change without the conversion.
func BenchmarkLargeMeshApplyOne(b *testing.B) {
	m := newWireMesh(b, largeMesh)
	in, s := NewInterner(), NewStore(Config{NodeName: "node1"})
	s.Apply(decode(b, m.resources, in))
	u := decode(b, m.flipped, in)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s.Apply(Update{Workloads: u.Workloads[i%largeMesh : i%largeMesh+1]})
		i++
	}
}

// A workload is looked up by its address in a large mesh.
func BenchmarkLargeMeshLookup(b *testing.B) {
	m := newWireMesh(b, largeMesh)
	s := NewStore(Config{NodeName: "node1"})
	s.Apply(decode(b, m.resources, NewInterner()))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i = (i + 7919) % largeMesh
		if s.Workload("", netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})) == nil {
			b.Fatal("not found")
		}
	}
}
