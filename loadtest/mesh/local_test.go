package mesh

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"ztunnel/proxy/local"
	"ztunnel/proxy/spiffe"
)

func example() Config {
	web := spiffe.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	return Config{
		Workloads: []Workload{
			{
				UID: "Kubernetes//Pod/shop/web-0", Name: "web-0", Namespace: "shop", ServiceAccount: "web", TrustDomain: "cluster.local",
				WorkloadIPs: []netip.Addr{netip.MustParseAddr("10.64.1.10"), netip.MustParseAddr("fd64::1:10")}, Protocol: "HBONE",
				Node: "node-1", WorkloadName: "web", WorkloadType: "deployment", CanonicalName: "web", CanonicalRevision: "v1", ClusterID: "Kubernetes",
				Services: map[string]map[uint16]uint16{"shop/web.shop.svc.cluster.local": {80: 8080, 7: 7007}},
			},
			{UID: "least", Namespace: "shop", Protocol: "TCP"},
		},
		Services: []Service{
			{Name: "web", Namespace: "shop", Hostname: "web.shop.svc.cluster.local", VIPs: []string{"/10.96.0.10", "/fd00:96::10"}, Ports: map[uint16]uint16{80: 8080}},
			{Name: "least", Namespace: "shop", Hostname: "least"},
		},
		Policies: []Policy{
			AllowOnly("shop", "only-web", web, 15020, 80),
			DenyAll("shop", "nobody", 8080),
		},
	}
}

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	for range 2 { // it replaces, too
		if err := example().WriteFile(path); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/local.golden.yaml", string(content))
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("the directory has %d files, %v, want the one", len(entries), err)
	}
	if err := example().WriteFile(filepath.Join(t.TempDir(), "absent", "mesh.yaml")); err == nil {
		t.Error("WriteFile into no directory = nil, want an error")
	}
}

// What is written is what ztunnel reads.
func TestWriteFileIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := example().WriteFile(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := local.Parse(data)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	if len(got.Workloads) != 2 || len(got.Services) != 2 || len(got.Policies) != 2 || len(got.Warnings) != 0 {
		t.Fatalf("Parse finds %d workloads, %d services, %d policies, warnings %q, want 2, 2, 2, none",
			len(got.Workloads), len(got.Services), len(got.Policies), got.Warnings)
	}
	w, id := got.Workloads[0], "spiffe://cluster.local/ns/shop/sa/web"
	if w.Identity().String() != id || len(w.Addrs) != 2 || w.WorkloadName != "web" || len(w.Services) != 1 {
		t.Errorf("workload = %+v, want that of %s with 2 addresses and a service", w, id)
	}
}

func TestClone(t *testing.T) {
	c := example()
	clone := c.Clone()
	clone.Policies = append(clone.Policies, DenyAll("shop", "more", 1))
	clone.Workloads[0].Name = "another"
	if len(c.Policies) != 2 || c.Workloads[0].Name != "web-0" {
		t.Error("a change of the clone changed the original")
	}
}
