package workload

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ztunnel/telemetry/connection"
)

func TestTelemetry(t *testing.T) {
	w := &Workload{
		Name: "web-7d9c-x1", WorkloadName: "web", Namespace: "shop", ServiceAccount: "seller", TrustDomain: "cluster.local",
		CanonicalName: "web-app", CanonicalRevision: "v1", ClusterID: "c1", Locality: Locality{Region: "r1", Zone: "z1"},
	}
	want := &connection.Workload{
		Pod: "web-7d9c-x1", Name: "web", Namespace: "shop", CanonicalName: "web-app", CanonicalRevision: "v1",
		Cluster: "c1", Region: "r1", Zone: "z1", Known: true, Principal: "spiffe://cluster.local/ns/shop/sa/seller",
	}
	if diff := cmp.Diff(want, w.Telemetry()); diff != "" {
		t.Errorf("Telemetry() of a workload, want (-) and got (+):\n%s", diff)
	}
	s := &Service{Name: "web", Namespace: "shop", Hostname: "web.shop.svc.cluster.local"}
	if diff := cmp.Diff(&connection.Service{Name: "web", Namespace: "shop", Hostname: "web.shop.svc.cluster.local"}, s.Telemetry()); diff != "" {
		t.Errorf("Telemetry() of a service, want (-) and got (+):\n%s", diff)
	}
	if n := testing.AllocsPerRun(100, func() { w.Telemetry(); s.Telemetry() }); n != 0 {
		t.Errorf("Telemetry() allocates %v times, want 0 after the first call", n)
	}
	if w, s := (*Workload)(nil).Telemetry(), (*Service)(nil).Telemetry(); w != nil || s != nil {
		t.Errorf("Telemetry() of nil = %v and %v, want nil", w, s)
	}
}

// All callers get the same, also when they are first at once.
func TestTelemetry_Concurrent(t *testing.T) {
	w := &Workload{Name: "a"}
	var got [8]*connection.Workload
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() { got[i] = w.Telemetry() })
	}
	all.Wait()
	for i := range got {
		if got[i] == nil || got[i] != got[0] {
			t.Errorf("caller %d got %p, another %p, want the same", i, got[i], got[0])
		}
	}
}
