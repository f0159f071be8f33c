package discovery

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/workload"
	"ztunnel/proxy/xds"
	"ztunnel/proxy/xds/xdstest"
)

// largeMesh encodes a response with services of ten workloads each, as istiod would describe them.
func largeMesh(tb testing.TB, services int) []byte {
	tb.Helper()
	resp := &discoveryapi.DeltaDiscoveryResponse{TypeUrl: AddressType, Nonce: "n"}
	add := func(name string, a *workloadapi.Address) {
		body, err := proto.Marshal(a)
		if err != nil {
			tb.Fatal(err)
		}
		resp.Resources = append(resp.Resources, &discoveryapi.Resource{
			Name: name, Version: fmt.Sprintf("%x", 0x9e3779b97f4a7c15*uint64(len(resp.Resources)+1)), Resource: &anypb.Any{TypeUrl: AddressType, Value: body},
		})
	}
	ports := []*workloadapi.Port{{ServicePort: 80, TargetPort: 8080}, {ServicePort: 443, TargetPort: 8443}}
	for i := range services {
		ns := fmt.Sprintf("ns-%d", i/20)
		host := fmt.Sprintf("svc-%d.%s.svc.cluster.local", i, ns)
		vip := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).AsSlice()
		add(ns+"/"+host, &workloadapi.Address{Type: &workloadapi.Address_Service{Service: &workloadapi.Service{
			Name: fmt.Sprintf("svc-%d", i), Namespace: ns, Hostname: host, Ports: ports, Canonical: true,
			Addresses: []*workloadapi.NetworkAddress{{Address: vip}},
		}}})
		for j := range 10 {
			n := i*10 + j
			name := fmt.Sprintf("svc-%d-7d4b9c8f6d-%05x", i, n)
			uid := "Kubernetes//Pod/" + ns + "/" + name
			ip := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}).AsSlice()
			add(uid, &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: &workloadapi.Workload{
				Uid: uid, Name: name, Namespace: ns, Addresses: [][]byte{ip}, Node: fmt.Sprintf("node-%d", n%1000),
				TunnelProtocol: workloadapi.TunnelProtocol_HBONE, ServiceAccount: fmt.Sprintf("svc-%d", i), ClusterId: "Kubernetes",
				CanonicalName: fmt.Sprintf("svc-%d", i), CanonicalRevision: "v1", WorkloadName: fmt.Sprintf("svc-%d", i), WorkloadType: workloadapi.WorkloadType_POD,
				Services: map[string]*workloadapi.PortList{ns + "/" + host: {Ports: ports}},
				Locality: &workloadapi.Locality{Region: "us-east-1", Zone: fmt.Sprintf("us-east-1%c", 'a'+n%3)},
			}}})
		}
	}
	b, err := proto.Marshal(resp)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// largeWorld is a Discovery whose stream has taken its first requests.
type largeWorld struct {
	*Discovery
	plane  *xdstest.Server
	stream *xdstest.Stream
	store  *workload.Store
}

func newLargeWorld(b *testing.B) *largeWorld {
	b.Helper()
	plane := xdstest.New(b)
	return newWorldAt(b, plane, &xdstest.Channel{Server: plane})
}

// newWorldAt is newLargeWorld with a control plane and the channel to it.
func newWorldAt(b *testing.B, plane *xdstest.Server, channel xds.Channel) *largeWorld {
	b.Helper()
	w := &largeWorld{plane: plane, store: workload.NewStore(workload.Config{NodeName: "node-1"})}
	d, err := New(Config{
		Channel: channel, Store: w.store, Policies: rbac.NewSet(slog.New(slog.DiscardHandler), false), NodeName: "node-1",
	})
	if err != nil {
		b.Fatal(err)
	}
	w.Discovery = d
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = d.Run(ctx) })
	b.Cleanup(func() {
		cancel()
		running.Wait()
	})
	w.open(b)
	return w
}

// open accepts a stream and returns how much its first requests claim.
func (w *largeWorld) open(b *testing.B) int {
	b.Helper()
	w.stream = w.plane.Accept(b)
	claims := w.stream.Recv(b).GetInitialResourceVersions()
	w.stream.Recv(b)
	return len(claims)
}

// push sends the response and waits until it is in force.
func (w *largeWorld) push(b *testing.B, response []byte) {
	b.Helper()
	w.stream.SendBytes(b, response)
	if r := w.stream.Recv(b); r.GetErrorDetail() != nil {
		b.Fatalf("rejected: %v", r)
	}
	if n := w.Status().Types[0].Resources; n != 110_000 {
		b.Fatalf("%d resources in force, want 110000", n)
	}
}

// BenchmarkLargeMesh is the first response in a mesh of 100,000 workloads and 10,000 services: CPU time in all, memory of
// the stores and the client, and how much the process has grown on the way.
func BenchmarkLargeMesh(b *testing.B) {
	response := largeMesh(b, 10_000)
	for b.Loop() {
		b.StopTimer()
		w := newLargeWorld(b)
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		cpu := cpuTime()
		b.StartTimer()
		w.push(b, response)
		b.StopTimer()
		b.ReportMetric((cpuTime() - cpu).Seconds(), "cpu-s/op")
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.Sys-before.Sys)/(1<<20), "MiB-sys/op")
		b.ReportMetric(float64(after.Mallocs-before.Mallocs)/110_000, "allocs/resource")
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB-kept/op")
		runtime.KeepAlive(w)
		b.StartTimer()
	}
	b.ReportMetric(float64(len(response))/(1<<20), "MiB-response")
}

// BenchmarkLargeMeshAgain is a new stream in that mesh, on which everything comes again as it was. Versions tell that
// there is nothing to do.
func BenchmarkLargeMeshAgain(b *testing.B) {
	response := largeMesh(b, 10_000)
	w := newLargeWorld(b)
	w.push(b, response)
	claimed := 0
	cpu := cpuTime()
	for b.Loop() {
		w.stream.End(nil)
		claimed = w.open(b)
		w.push(b, response)
	}
	b.ReportMetric((cpuTime()-cpu).Seconds()/float64(b.N), "cpu-s/op")
	b.ReportMetric(float64(claimed), "claimed")
}

// BenchmarkPush is a push of 50 changed workloads over TLS, to its acknowledgement. What counts is the memory, and the CPU
// time, in which that of the control plane is included: package istiod lets pushes wait that come one after the other.
func BenchmarkPush(b *testing.B) {
	plane, channel := overTLS(b)
	w := newWorldAt(b, plane, channel)
	const pods = 50
	var pushes [2][]byte
	for i := range pushes {
		r := &discoveryapi.DeltaDiscoveryResponse{TypeUrl: AddressType, Nonce: "n"}
		for n := range pods {
			p := pod(fmt.Sprintf("web-%d", n), "web")
			p.Node = fmt.Sprintf("node-%d", 2+i)
			r.Resources = append(r.Resources, resource(b, p))
		}
		pushes[i] = encode(b, r)
	}
	n := 0
	cpu := cpuTime()
	b.ReportAllocs()
	for b.Loop() {
		w.stream.SendBytes(b, pushes[n%2])
		if r := w.stream.Recv(b); r.GetErrorDetail() != nil {
			b.Fatalf("rejected: %v", r)
		}
		n++
	}
	b.ReportMetric((cpuTime()-cpu).Seconds()*1e6/float64(n*pods), "cpu-µs/resource")
}

func encode(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}
