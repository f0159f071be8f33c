package workload

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	api "ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/spiffe"
)

var update = flag.Bool("update", false, "write the golden files")

// capture is a recorded response of istiod's, decoded as far as the store is concerned.
type capture struct {
	addresses []*api.Address
	removed   []string
}

// sameRecord compares what a record says, not what is remembered about it.
var sameRecord = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.IgnoreUnexported(Workload{}, Service{})}

func readCapture(tb testing.TB, name string) capture {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "captures", name+".pb"))
	if err != nil {
		tb.Fatal(err)
	}
	var c capture
	fields(tb, b, func(num protowire.Number, v []byte) {
		switch num {
		case 2: // resources
			fields(tb, v, func(num protowire.Number, v []byte) {
				if num == 2 { // resource
					fields(tb, v, func(num protowire.Number, v []byte) {
						if num == 2 { // value
							a := &api.Address{}
							if err := proto.Unmarshal(v, a); err != nil {
								tb.Fatalf("Unmarshal of a resource of %s: %v", name, err)
							}
							c.addresses = append(c.addresses, a)
						}
					})
				}
			})
		case 6: // removed_resources
			c.removed = append(c.removed, string(v))
		}
	})
	return c
}

// fields calls f for each length-delimited field.
func fields(tb testing.TB, b []byte, f func(protowire.Number, []byte)) {
	tb.Helper()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			tb.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(num, typ, b)
		if size < 0 {
			tb.Fatal(protowire.ParseError(size))
		}
		if typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b)
			f(num, v)
		}
		b = b[size:]
	}
}

// apply converts a capture and applies it as one batch.
func (c capture) apply(tb testing.TB, s *Store, in *Interner) {
	tb.Helper()
	u := Update{Removed: c.removed}
	for _, a := range c.addresses {
		if len(a.ProtoReflect().GetUnknown()) > 0 || len(a.GetWorkload().ProtoReflect().GetUnknown()) > 0 ||
			len(a.GetService().ProtoReflect().GetUnknown()) > 0 {
			tb.Errorf("resource has unknown fields: %v", a)
		}
		w, svc, err := FromProto(a, in)
		if err != nil {
			tb.Fatalf("FromProto(%v) = %v", a, err)
		}
		if w != nil {
			u.Workloads = append(u.Workloads, w)
		} else {
			u.Services = append(u.Services, svc)
		}
	}
	s.Apply(u)
}

func TestCaptures(t *testing.T) {
	s, in := NewStore(Config{NodeName: "node-a"}), NewInterner()
	readCapture(t, "01-initial-sync").apply(t, s, in)
	dump := struct {
		Services       any `json:"services"`
		StagedServices any `json:"stagedServices"`
		Workloads      any `json:"workloads"`
	}{s.DumpServices(), s.StagedEndpoints(), s.Workloads()}
	golden(t, "initial-sync.json", dump)

	webKey := NamespacedHostname{"shop", "web.shop.svc.cluster.local"}
	before := len(s.Endpoints(s.Service(webKey)))
	added := readCapture(t, "02-pod-added")
	added.apply(t, s, in)
	if got := len(s.Endpoints(s.Service(webKey))); got != before+1 {
		t.Errorf("endpoints of web after a pod was added = %d, want %d", got, before+1)
	}
	readCapture(t, "03-pod-not-ready").apply(t, s, in)
	if got := len(s.Endpoints(s.Service(webKey))); got != before {
		t.Errorf("endpoints of web with a pod not ready = %d, want %d", got, before)
	}
	uid := added.addresses[0].GetWorkload().GetUid()
	if s.WorkloadByUID(uid) == nil {
		t.Errorf("WorkloadByUID(%s) = nil, want it", uid)
	}
	readCapture(t, "04-pod-deleted").apply(t, s, in)
	if s.WorkloadByUID(uid) != nil {
		t.Errorf("WorkloadByUID(%s) is still there", uid)
	}
	readCapture(t, "10-weighted-waypoints").apply(t, s, in)
	svc := s.Service(webKey)
	if len(svc.WeightedWaypoints) != 2 || svc.WeightedWaypoints[0].Weight+svc.WeightedWaypoints[1].Weight != 100 || svc.Waypoint == nil {
		t.Errorf("weighted waypoints = %v, want two that share 100, and a plain one", svc.WeightedWaypoints)
	}

	old := s.WorkloadByUID("Kubernetes//Pod/shop/client-0")
	readCapture(t, "22-pod-ip-reused-1").apply(t, s, in)
	if w := s.Workload("", old.Addrs[0]); w != nil {
		t.Errorf("Workload(%s) after the removal = %s, want none", old.Addrs[0], w.UID)
	}
	readCapture(t, "22-pod-ip-reused-2").apply(t, s, in)
	if w := s.Workload("", old.Addrs[0]); w == nil || w.UID != "Kubernetes//Pod/shop/client-1" {
		t.Errorf("Workload(%s) = %v, want client-1", old.Addrs[0], w)
	}
}

func TestCapturesWithNetworks(t *testing.T) {
	s := NewStore(Config{})
	readCapture(t, "with-networks").apply(t, s, nil)
	gateways := 0
	for _, w := range s.Workloads() {
		if w.NetworkGateway != nil {
			gateways++
		}
	}
	if gateways == 0 {
		t.Errorf("no workload has a network gateway")
	}
	if s.Workload("net1", netip.MustParseAddr("10.10.1.11")) == nil || s.Workload("", netip.MustParseAddr("10.10.1.11")) != nil {
		t.Errorf("Workload(10.10.1.11): want it in net1 alone")
	}
}

// With an Interner or without, the result is the same.
func TestInterner(t *testing.T) {
	in := NewInterner()
	c := readCapture(t, "01-initial-sync")
	var seen []*Workload
	for _, a := range c.addresses {
		w, svc, err := FromProto(a, nil)
		if err != nil {
			t.Fatal(err)
		}
		w2, svc2, _ := FromProto(a, in)
		if d := cmp.Diff(w, w2, sameRecord, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("interned workload differs:\n%s", d)
		}
		if d := cmp.Diff(svc, svc2, sameRecord, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("interned service differs:\n%s", d)
		}
		if w2 != nil {
			seen = append(seen, w2)
		}
	}
	if in.services.len() >= len(seen) {
		t.Errorf("%d workloads have %d maps of services, want fewer", len(seen), in.services.len())
	}
}

func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)+"\n"); d != "" {
		t.Errorf("%s differs (-want +got):\n%s", name, d)
	}
}

func TestWorkloadFromProto(t *testing.T) {
	got, err := WorkloadFromProto(&api.Workload{
		Uid: "u", Namespace: "n", Addresses: [][]byte{{127, 0, 0, 1}, make([]byte, 16), {0, 0, 0, 0}},
		Services: map[string]*api.PortList{"n/h/x": {Ports: []*api.Port{{ServicePort: 80, TargetPort: 1}, {ServicePort: 80, TargetPort: 2}, {ServicePort: 65537}}}},
		Capacity: wrapperspb.UInt32(0), WorkloadType: 77,
	}, nil)
	want := &Workload{
		UID: "u", Namespace: "n", TrustDomain: "cluster.local", ServiceAccount: "default", ClusterID: "Kubernetes",
		WorkloadType: "deployment", Addrs: []netip.Addr{ip("127.0.0.1"), ip("::"), ip("0.0.0.0")},
		Services: map[NamespacedHostname]PortMap{{"n", "h/x"}: {80: 2, 1: 0}},
	}
	if d := cmp.Diff(want, got, sameRecord); err != nil || d != "" {
		t.Errorf("WorkloadFromProto: %v, differs (-want +got):\n%s", err, d)
	}
	if got, _ := WorkloadFromProto(&api.Workload{}, nil); got.Capacity != 1 {
		t.Errorf("absent capacity = %d, want 1", got.Capacity)
	}
	full, err := WorkloadFromProto(&api.Workload{
		TunnelProtocol: api.TunnelProtocol_HBONE, NetworkMode: api.NetworkMode_HOST_NETWORK,
		Status: api.WorkloadStatus_UNHEALTHY, WorkloadType: api.WorkloadType_CRONJOB, NativeTunnel: true,
		ApplicationTunnel: &api.ApplicationTunnel{Protocol: api.ApplicationTunnel_PROXY, Port: 15088},
		Waypoint:          &api.GatewayAddress{HboneMtlsPort: 15008, Destination: &api.GatewayAddress_Address{Address: &api.NetworkAddress{Network: "nw", Address: []byte{127, 0, 0, 10}}}},
		NetworkGateway:    &api.GatewayAddress{HboneMtlsPort: 1, Destination: &api.GatewayAddress_Hostname{Hostname: &api.NamespacedHostname{Namespace: "n", Hostname: "h"}}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if full.Protocol != HBONE || full.NetworkMode != HostNetwork || full.Status != Unhealthy || full.WorkloadType != "cronjob" ||
		*full.ApplicationTunnel != (ApplicationTunnel{AppTunnelProxy, 15088}) || full.Waypoint.String() != "nw/127.0.0.10" ||
		full.Waypoint.IsHostname() || full.NetworkGateway.String() != "n/h" || !full.NetworkGateway.IsHostname() {
		t.Errorf("WorkloadFromProto = %+v, want what was sent", full)
	}
}

func TestServiceFromProto(t *testing.T) {
	length := func(n uint32) *uint32 { return &n }
	got, err := ServiceFromProto(&api.Service{
		Name: "h", Namespace: "n", Hostname: "h.x", Canonical: true, Visibility: 99,
		Addresses: []*api.NetworkAddress{
			{Address: []byte{10, 0, 0, 1}},
			{Network: "nw", Address: []byte{10, 0, 0, 2}, Length: length(32)},
			{Address: []byte{10, 0, 0, 3}, Length: length(24)},
			{Address: make([]byte, 16), Length: length(128)},
			{Address: make([]byte, 16), Length: length(0)},
		},
		SubjectAltNames: []string{"x", "spiffe://td/ns/n/sa/s"}, IpFamilies: api.IPFamilies_DUAL,
		LoadBalancing: &api.LoadBalancing{
			Mode: api.LoadBalancing_FAILOVER, HealthPolicy: api.LoadBalancing_ALLOW_ALL,
			RoutingPreference: []api.LoadBalancing_Scope{
				api.LoadBalancing_NETWORK, api.LoadBalancing_REGION, api.LoadBalancing_ZONE,
				api.LoadBalancing_SUBZONE, api.LoadBalancing_NODE, api.LoadBalancing_CLUSTER,
			},
		},
	}, NewInterner())
	want := &Service{
		Name: "h", Namespace: "n", Hostname: "h.x", Canonical: true, Ports: PortMap{},
		VIPs:     []NetworkAddress{vip("10.0.0.1"), {"nw", ip("10.0.0.2")}, vip("::")},
		CIDRVIPs: []CIDRVIP{cidr("10.0.0.3/24"), cidr("::/0")}, IPFamilies: FamiliesDual,
		SubjectAltNames: []string{"x", "spiffe://td/ns/n/sa/s"}, SANs: []spiffe.ID{{TrustDomain: "td", Namespace: "n", ServiceAccount: "s"}},
		LoadBalancer: &LoadBalancer{
			Mode: ModeFailover, HealthPolicy: AllowAll,
			Preferences: []Scope{ScopeNetwork, ScopeRegion, ScopeZone, ScopeSubzone, ScopeNode, ScopeCluster},
		},
	}
	if d := cmp.Diff(want, got, sameRecord); err != nil || d != "" {
		t.Errorf("ServiceFromProto: %v, differs (-want +got):\n%s", err, d)
	}
	for pb, want := range map[api.IPFamilies]IPFamilies{0: FamiliesAutomatic, 1: FamiliesIPv4, 2: FamiliesIPv6, 3: FamiliesDual} {
		if got, _ := ServiceFromProto(&api.Service{IpFamilies: pb}, nil); got.IPFamilies != want {
			t.Errorf("IP families %v = %v, want %v", pb, got.IPFamilies, want)
		}
	}
	for pb, want := range map[api.LoadBalancing_Mode]Mode{0: ModeStandard, 1: ModeStrict, 2: ModeFailover, 3: ModePassthrough} {
		if got, _ := ServiceFromProto(&api.Service{LoadBalancing: &api.LoadBalancing{Mode: pb}}, nil); got.LoadBalancer.Mode != want {
			t.Errorf("mode %v = %v, want %v", pb, got.LoadBalancer.Mode, want)
		}
	}
}

func TestFromProtoErrors(t *testing.T) {
	length := func(n uint32) *uint32 { return &n }
	workload := func(w *api.Workload) *api.Address { return &api.Address{Type: &api.Address_Workload{Workload: w}} }
	service := func(s *api.Service) *api.Address { return &api.Address{Type: &api.Address_Service{Service: s}} }
	empty := &api.GatewayAddress{HboneMtlsPort: 15008}
	tests := map[string]struct {
		in   *api.Address
		want string
	}{
		"nothing":          {&api.Address{}, "address is neither workload nor service"},
		"no bytes":         {workload(&api.Workload{Addresses: [][]byte{{}}}), "failed to parse address, had 0 bytes"},
		"nine bytes":       {workload(&api.Workload{Addresses: [][]byte{make([]byte, 9)}}), "failed to parse address, had 9 bytes"},
		"legacy":           {workload(&api.Workload{TunnelProtocol: api.TunnelProtocol_LEGACY_ISTIO_MTLS}), "unknown enum: LEGACY_ISTIO_MTLS"},
		"tunnel protocol":  {workload(&api.Workload{TunnelProtocol: 9}), "decode error: unknown enumeration value 9"},
		"network mode":     {workload(&api.Workload{NetworkMode: 8}), "decode error: unknown enumeration value 8"},
		"status":           {workload(&api.Workload{Status: -7}), "decode error: unknown enumeration value -7"},
		"app tunnel":       {workload(&api.Workload{ApplicationTunnel: &api.ApplicationTunnel{Protocol: 6}}), "decode error: unknown enumeration value 6"},
		"waypoint":         {workload(&api.Workload{Waypoint: empty}), "nonempty gateway address is missing address"},
		"waypoint address": {workload(&api.Workload{Waypoint: &api.GatewayAddress{Destination: &api.GatewayAddress_Address{Address: &api.NetworkAddress{}}}}), "failed to parse address, had 0 bytes"},
		"gateway":          {workload(&api.Workload{NetworkGateway: empty}), "nonempty gateway address is missing address"},
		"service name":     {workload(&api.Workload{Services: map[string]*api.PortList{"h": {}}}), "failed to parse namespaced hostname: h"},
		"vip":              {service(&api.Service{Addresses: []*api.NetworkAddress{{Address: []byte{1}}}}), "failed to parse address, had 1 bytes"},
		"cidr v4":          {service(&api.Service{Addresses: []*api.NetworkAddress{{Address: []byte{10, 0, 0, 1}, Length: length(33)}}}), "invalid cidr: prefix length 33 of address 10.0.0.1"},
		"cidr v4, 256":     {service(&api.Service{Addresses: []*api.NetworkAddress{{Address: []byte{10, 0, 0, 1}, Length: length(256)}}}), "invalid cidr: prefix length 256 of address 10.0.0.1"},
		"cidr v6":          {service(&api.Service{Addresses: []*api.NetworkAddress{{Address: make([]byte, 16), Length: length(129)}}}), "invalid cidr: prefix length 129 of address ::"},
		"weighted":         {service(&api.Service{WeightedWaypoints: []*api.WeightedWaypoint{{Weight: 1}}}), "nonempty gateway address is missing address"},
		"weighted, empty":  {service(&api.Service{WeightedWaypoints: []*api.WeightedWaypoint{{Destination: empty}}}), "nonempty gateway address is missing address"},
		"service waypoint": {service(&api.Service{Waypoint: empty}), "nonempty gateway address is missing address"},
		"scope unset":      {service(&api.Service{LoadBalancing: &api.LoadBalancing{RoutingPreference: []api.LoadBalancing_Scope{0}}}), "unknown enum: invalid target"},
		"scope":            {service(&api.Service{LoadBalancing: &api.LoadBalancing{RoutingPreference: []api.LoadBalancing_Scope{7}}}), "decode error: unknown enumeration value 7"},
		"mode":             {service(&api.Service{LoadBalancing: &api.LoadBalancing{Mode: 4}}), "decode error: unknown enumeration value 4"},
		"health policy":    {service(&api.Service{LoadBalancing: &api.LoadBalancing{HealthPolicy: 2}}), "decode error: unknown enumeration value 2"},
		"families":         {service(&api.Service{IpFamilies: 4}), "decode error: unknown enumeration value 4"},
	}
	for name, tt := range tests {
		w, svc, err := FromProto(tt.in, nil)
		if err == nil || err.Error() != tt.want || w != nil || svc != nil {
			t.Errorf("%s: FromProto = %v, %v, %v, want %q", name, w, svc, err, tt.want)
		}
	}
}

func FuzzFromProto(f *testing.F) {
	for _, name := range []string{"01-initial-sync", "10-weighted-waypoints", "with-networks"} {
		for _, a := range readCapture(f, name).addresses {
			b, err := proto.Marshal(a)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a := &api.Address{}
		if proto.Unmarshal(b, a) != nil {
			return
		}
		w, svc, err := FromProto(a, NewInterner())
		if err != nil {
			if w != nil || svc != nil {
				t.Fatalf("FromProto = %v, %v with error %v, want neither", w, svc, err)
			}
			return
		}
		if (w == nil) == (svc == nil) {
			t.Fatalf("FromProto = %v, %v, want one of them", w, svc)
		}
		// Nothing but memory is shared by an interner.
		alone, aloneSvc, err := FromProto(a, nil)
		if err != nil || w != nil && !w.equal(alone) || svc != nil && !svc.equal(aloneSvc) {
			t.Fatalf("FromProto without an interner = %v, %v, %v, with one %v, %v", alone, aloneSvc, err, w, svc)
		}
		s := NewStore(Config{})
		u := Update{}
		if w != nil {
			u.Workloads = []*Workload{w, w}
		} else {
			u.Services = []*Service{svc, svc}
		}
		s.Apply(u)
		for _, v := range []any{s.Workloads(), s.DumpServices(), s.StagedEndpoints()} {
			if out, err := json.Marshal(v); err != nil || !json.Valid(out) {
				t.Fatalf("Marshal = %s, %v, want JSON", out, err)
			}
		}
		if w != nil {
			s.Apply(Update{RemovedWorkloads: []string{w.UID}})
		} else {
			s.Apply(Update{RemovedServices: []NamespacedHostname{svc.Key()}})
		}
		wantEmpty(t, s)
	})
}
