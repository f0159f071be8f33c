package control

import (
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/api/securityapi"
	"ztunnel/proxy/api/workloadapi"
)

// recorded reads a response of a real istiod and decodes one resource of it.
func recorded(t *testing.T, file, name string, into proto.Message) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r discoveryapi.DeltaDiscoveryResponse
	if err := proto.Unmarshal(content, &r); err != nil {
		t.Fatal(err)
	}
	for _, resource := range r.GetResources() {
		if resource.GetName() == name {
			if err := proto.Unmarshal(resource.GetResource().GetValue(), into); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%s has no resource %s", file, name)
}

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// The builders make what istiod made of such objects.
func TestPod(t *testing.T) {
	nodeA := &workloadapi.Locality{Region: "us-east-1", Zone: "us-east-1a", Subzone: "rack1"}
	nodeC := &workloadapi.Locality{Region: "eu-west-1", Zone: "eu-west-1a"}
	dual := Service(ServiceSpec{Namespace: "shop", Name: "dual", Ports: []Port{{Port: 80, Target: 8080}}})
	for _, spec := range []PodSpec{
		{
			Namespace: "istio-system", Name: "ztunnel-a1", ServiceAccount: "ztunnel", App: "ztunnel", Node: "node-a", Locality: nodeA,
			Addresses: addrs("10.10.1.2"),
		},
		{
			Namespace: "shop", Name: "client-0", ServiceAccount: "client", App: "client", Workload: "client-0", Node: "node-a", Locality: nodeA,
			Addresses: addrs("10.10.1.16"), Captured: true, Policies: []string{"shop/client-sa"},
		},
		{
			Namespace: "shop", Name: "dual-0", ServiceAccount: "dual", App: "dual", Node: "node-c", Locality: nodeC, Captured: true,
			Addresses: addrs("10.10.3.15", "fd00:10:10:3::f"), Policies: []string{"shop/converted_peer_authentication_dual-port"},
			Services: []*workloadapi.Service{dual},
		},
		{
			Namespace: "shop", Name: "agent-node-a", ServiceAccount: "agent", App: "agent", Node: "node-a", Locality: nodeA,
			Addresses: addrs("172.18.0.2"), HostNetwork: true,
			Services: []*workloadapi.Service{Service(ServiceSpec{Namespace: "shop", Name: "node-agent", Ports: []Port{{Port: 9100}}})},
		},
	} {
		var want workloadapi.Address
		got := Pod(spec)
		recorded(t, "testdata/istiod-addresses.pb", got.GetUid(), &want)
		if diff := cmp.Diff(want.GetWorkload(), got, protocmp.Transform()); diff != "" {
			t.Errorf("Pod(%s) (-istiod +got):\n%s", spec.Name, diff)
		}
	}
	got := Pod(PodSpec{Cluster: "c", TrustDomain: "td", Network: "net", Namespace: "n", Name: "p", NotReady: true, Addresses: addrs("10.0.0.1")})
	want := &workloadapi.Workload{
		Uid: "c//Pod/n/p", Name: "p", Namespace: "n", ServiceAccount: "default", Network: "net", TrustDomain: "td", ClusterId: "c",
		CanonicalName: "p", CanonicalRevision: "latest", WorkloadName: "p", WorkloadType: workloadapi.WorkloadType_POD,
		Status: workloadapi.WorkloadStatus_UNHEALTHY, Addresses: [][]byte{{10, 0, 0, 1}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("Pod() (-want +got):\n%s", diff)
	}
}

func TestService(t *testing.T) {
	for _, spec := range []ServiceSpec{
		{
			Namespace: "shop", Name: "web", VIPs: addrs("10.96.1.10"), Ports: []Port{
				{Port: 80, Protocol: workloadapi.AppProtocol_HTTP11},
				{Port: 443, Protocol: workloadapi.AppProtocol_TLS},
				{Port: 9000, Target: 9000, Protocol: workloadapi.AppProtocol_GRPC},
				{Port: 7000, Target: 7000, Protocol: workloadapi.AppProtocol_TCP},
			},
		},
		{
			Namespace: "shop", Name: "dual", VIPs: addrs("10.96.1.13", "fd00:10:96::13"),
			Ports: []Port{{Port: 80, Target: 8080, Protocol: workloadapi.AppProtocol_HTTP2}},
		},
	} {
		got := Service(spec)
		var want workloadapi.Address
		recorded(t, "testdata/istiod-addresses.pb", got.GetNamespace()+"/"+got.GetHostname(), &want)
		if diff := cmp.Diff(want.GetService(), got, protocmp.Transform()); diff != "" {
			t.Errorf("Service(%s) (-istiod +got):\n%s", spec.Name, diff)
		}
	}
	if got := Service(ServiceSpec{VIPs: addrs("fd00::1")}).GetIpFamilies(); got != workloadapi.IPFamilies_IPV6_ONLY {
		t.Errorf("families = %v, want IPv6 only", got)
	}
}

func TestPolicies(t *testing.T) {
	for _, got := range []*securityapi.Authorization{
		AllowPolicy(PolicySpec{
			Namespace: "shop", Name: "cart-allow-web", Selector: true,
			Principals: []string{"cluster.local/ns/shop/sa/web"}, Ports: []uint16{8080},
		}),
		AllowPolicy(PolicySpec{Namespace: "locked", Name: "allow-nothing"}),
		AllowPolicy(PolicySpec{Namespace: "sidecars", Name: "allow-all-from-mesh", MatchAll: true}),
		AllowPolicy(PolicySpec{Namespace: "payments", Name: "ns-allow", Namespaces: []string{"shop", "payments", "istio-*"}}),
		DenyPolicy(PolicySpec{
			Namespace: "istio-system", Name: "global-deny-ip", Mesh: true, SourceIPs: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:bad::/48")},
		}),
	} {
		var want securityapi.Authorization
		name := got.GetNamespace() + "/" + got.GetName()
		recorded(t, "testdata/istiod-policies.pb", name, &want)
		if diff := cmp.Diff(&want, got, protocmp.Transform()); diff != "" {
			t.Errorf("policy %s (-istiod +got):\n%s", name, diff)
		}
	}
	got := AllowPolicy(PolicySpec{Principals: []string{"*", "*x", "x*", "x"}}).GetRules()[0].GetClauses()[0].GetMatches()[0].GetPrincipals()
	if got[0].GetPresence() == nil || got[1].GetSuffix() != "x" || got[2].GetPrefix() != "x" || got[3].GetExact() != "x" {
		t.Errorf("principals = %v, want presence, suffix, prefix and exact", got)
	}
}

// All that istiod sends can be given to a plane, under the names of istiod.
func TestRecordedUpdate(t *testing.T) {
	p := newPlane(t, Config{})
	var u Update
	want := [kinds]map[string]bool{{}, {}}
	for k, file := range []string{"testdata/istiod-addresses.pb", "testdata/istiod-policies.pb"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var r discoveryapi.DeltaDiscoveryResponse
		if err := proto.Unmarshal(content, &r); err != nil {
			t.Fatal(err)
		}
		for _, resource := range r.GetResources() {
			want[k][resource.GetName()] = true
			if kind(k) == policies {
				a := &securityapi.Authorization{}
				recorded(t, file, resource.GetName(), a)
				u.Policies = append(u.Policies, a)
				continue
			}
			a := &workloadapi.Address{}
			recorded(t, file, resource.GetName(), a)
			if a.GetService() != nil {
				u.Services = append(u.Services, a.GetService())
			} else {
				u.Workloads = append(u.Workloads, a.GetWorkload())
			}
		}
	}
	change(t, p, u)
	for k := range want {
		got := map[string]bool{}
		for name := range p.store.byName[k] {
			got[name] = true
		}
		if diff := cmp.Diff(want[k], got); diff != "" {
			t.Errorf("names (-istiod +got):\n%s", diff)
		}
	}
	if len(want[addresses]) < 20 || len(want[policies]) < 10 {
		t.Errorf("recording has %d addresses and %d policies, want more", len(want[addresses]), len(want[policies]))
	}
}

func TestUpdateRefuses(t *testing.T) {
	p := newPlane(t, Config{})
	good := web("node-a", "a", "10.0.0.1")
	for name, u := range map[string]Update{
		"no uid":          {Workloads: []*workloadapi.Workload{{Name: "x"}}},
		"address":         {Workloads: []*workloadapi.Workload{{Uid: "x", Addresses: [][]byte{{1, 2, 3}}}}},
		"service key":     {Workloads: []*workloadapi.Workload{{Uid: "x", Services: map[string]*workloadapi.PortList{"x": {}}}}},
		"not UTF-8":       {Workloads: []*workloadapi.Workload{{Uid: "\xff"}}},
		"no hostname":     {Services: []*workloadapi.Service{{Namespace: "x"}}},
		"service address": {Services: []*workloadapi.Service{{Namespace: "x", Hostname: "x", Addresses: []*workloadapi.NetworkAddress{{}}}}},
		"prefix": {Services: []*workloadapi.Service{{Namespace: "x", Hostname: "x", Addresses: []*workloadapi.NetworkAddress{
			{Address: []byte{1, 2, 3, 4}, Length: proto.Uint32(33)},
		}}}},
		"no name": {Policies: []*securityapi.Authorization{{Namespace: "x"}}},
	} {
		u.Workloads = append(u.Workloads, good)
		if err := p.Update(u); err == nil {
			t.Errorf("%s: Update() = nil, want an error", name)
		}
	}
	if s := p.Stats(); s != (Stats{}) {
		t.Errorf("Stats() = %+v, want nothing changed", s)
	}
}
