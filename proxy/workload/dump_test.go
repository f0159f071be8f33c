package workload

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func fullWorkload() *Workload {
	return &Workload{
		UID: "u", Name: "n", Namespace: "ns", TrustDomain: "td", ServiceAccount: "sa", Network: "nw", WorkloadName: "wn", WorkloadType: "pod",
		CanonicalName: "cn", CanonicalRevision: "cr", Hostname: "h", Node: "node", ClusterID: "c",
		Addrs: []netip.Addr{ip("10.0.0.1"), ip("::1")}, Protocol: HBONE, NetworkMode: HostNetwork, Status: Unhealthy,
		Waypoint:       &Gateway{Address: NetworkAddress{"defaultnw", ip("127.0.0.10")}, Port: 15008},
		NetworkGateway: &Gateway{Hostname: NamespacedHostname{"gns", "ghost"}, Port: 15009},
		NativeTunnel:   true, ApplicationTunnel: &ApplicationTunnel{AppTunnelProxy, 15088},
		AuthorizationPolicies: []string{"ns/p"}, Locality: Locality{Region: "r"},
		Services: map[NamespacedHostname]PortMap{{"ns", "b"}: {80: 1, 9: 2}, {"ns", "a"}: {}}, Capacity: 7,
	}
}

func fullService() *Service {
	return &Service{
		Name: "n", Namespace: "ns", Hostname: "h", VIPs: []NetworkAddress{vip("10.1.0.1"), {"nw", ip("::1")}}, CIDRVIPs: []CIDRVIP{{"nw", netip.MustParsePrefix("10.1.0.3/24")}},
		Ports: PortMap{80: 8080, 443: 0}, SubjectAltNames: []string{"x"}, Waypoint: &Gateway{Hostname: NamespacedHostname{"ns", "w"}, Port: 1},
		WeightedWaypoints: []WeightedWaypoint{{Gateway{Hostname: NamespacedHostname{"ns", "w"}, Port: 1}, 80}},
		LoadBalancer:      &LoadBalancer{Preferences: []Scope{ScopeRegion, ScopeNetwork}, Mode: ModeStrict, HealthPolicy: AllowAll},
		IPFamilies:        FamiliesDual, Canonical: true, Visibility: VisibilityNamespace,
	}
}

func TestDump(t *testing.T) {
	static := func(w *Workload) json.RawMessage {
		b, err := w.MarshalStatic()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tests := map[string]struct {
		v    any
		want string
	}{
		"workload, empty": {&Workload{}, `{"capacity":0,"clusterId":"","name":"","namespace":"","networkMode":"Standard","protocol":"TCP","status":"Healthy","workloadIps":[]}`},
		"workload": {fullWorkload(), `{"applicationTunnel":{"port":15088,"protocol":"PROXY"},"authorizationPolicies":["ns/p"],"canonicalName":"cn",` +
			`"canonicalRevision":"cr","capacity":7,"clusterId":"c","hostname":"h","locality":{"region":"r","subzone":"","zone":""},"name":"n","namespace":"ns",` +
			`"nativeTunnel":true,"network":"nw","networkGateway":{"destination":"gns/ghost","hboneMtlsPort":15009},"networkMode":"HostNetwork","node":"node",` +
			`"protocol":"HBONE","serviceAccount":"sa","services":["ns/a","ns/b"],"status":"Unhealthy","trustDomain":"td","uid":"u",` +
			`"waypoint":{"destination":"defaultnw/127.0.0.10","hboneMtlsPort":15008},"workloadIps":["10.0.0.1","::1"],"workloadName":"wn","workloadType":"pod"}`},
		"tunnel without port": {&Workload{ApplicationTunnel: &ApplicationTunnel{}}, `{"applicationTunnel":{"port":null,"protocol":"NONE"},"capacity":0,"clusterId":"",` +
			`"name":"","namespace":"","networkMode":"Standard","protocol":"TCP","status":"Healthy","workloadIps":[]}`},
		"static workload": {static(&Workload{Services: map[NamespacedHostname]PortMap{{"ns", "a"}: {80: 1}}}), `{"capacity":0,"clusterId":"",` +
			`"name":"","namespace":"","networkMode":"Standard","protocol":"TCP","services":{"ns/a":{"80":1}},"status":"Healthy","workloadIps":[]}`},
		"static workload without services": {static(&Workload{}), `{"capacity":0,"clusterId":"",` +
			`"name":"","namespace":"","networkMode":"Standard","protocol":"TCP","services":{},"status":"Healthy","workloadIps":[]}`},
		"service, empty": {&Service{}, `{"canonical":false,"endpoints":{},"hostname":"","name":"","namespace":"","ports":{},"subjectAltNames":[],"vips":[],"visibility":"Public"}`},
		"service": {ServiceDump{fullService(), map[string]EndpointDump{"u": {PortMap{80: 1}, Unhealthy, "u"}}}, `{"canonical":true,` +
			`"cidrVips":[{"cidr":"10.1.0.3/24","network":"nw"}],"endpoints":{"u":{"port":{"80":1},"status":"Unhealthy","workloadUid":"u"}},"hostname":"h",` +
			`"ipFamilies":"Dual","loadBalancer":{"healthPolicy":"AllowAll","mode":"Strict","routingPreferences":["Region","Network"]},"name":"n","namespace":"ns",` +
			`"ports":{"443":0,"80":8080},"subjectAltNames":["x"],"vips":["/10.1.0.1","nw/::1"],"visibility":"Namespace",` +
			`"waypoint":{"destination":"ns/w","hboneMtlsPort":1},"weightedWaypoints":[{"destination":{"destination":"ns/w","hboneMtlsPort":1},"weight":80}]}`},
		"preferences none": {&Service{LoadBalancer: &LoadBalancer{}}, `{"canonical":false,"endpoints":{},"hostname":"","loadBalancer":{"healthPolicy":"OnlyHealthy",` +
			`"mode":"Standard","routingPreferences":[]},"name":"","namespace":"","ports":{},"subjectAltNames":[],"vips":[],"visibility":"Public"}`},
		"gateway":         {Gateway{Hostname: NamespacedHostname{"a", "b"}, Port: 2}, `{"destination":"a/b","hboneMtlsPort":2}`},
		"empty store":     {NewStore(Config{}).Workloads(), `[]`},
		"no services":     {NewStore(Config{}).DumpServices(), `[]`},
		"nothing staged":  {NewStore(Config{}).StagedEndpoints(), `{}`},
		"unknown numbers": {[]any{Protocol(9), Scope(0), Scope(7)}, `["Unknown(9)","","Unknown(7)"]`},
	}
	for name, tt := range tests {
		got, err := json.Marshal(tt.v)
		if d := cmp.Diff(tt.want, string(got)); err != nil || d != "" {
			t.Errorf("%s: Marshal: %v, differs (-want +got):\n%s", name, err, d)
		}
		wantSorted(t, name, got)
	}
}

// wantSorted checks that the keys of every object are in order.
func wantSorted(t *testing.T, name string, b []byte) {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Errorf("%s: Unmarshal: %v", name, err)
	}
	again, err := json.Marshal(v) // the encoder sorts maps
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("%s: keys are not sorted: %s", name, b)
	}
}

func TestDumpOrder(t *testing.T) {
	s := NewStore(Config{})
	later := NamespacedHostname{"a", "b"}
	put(s, pod("2", "10.0.0.2", web), pod("1", "10.0.0.1", NamespacedHostname{"x", "y"}), service(web), service(NamespacedHostname{"z", "b"}), service(later))
	var uids, hosts []string
	for _, w := range s.Workloads() {
		uids = append(uids, w.UID)
	}
	for _, svc := range s.Services() {
		hosts = append(hosts, svc.Key().String())
	}
	if !slices.Equal(uids, []string{"1", "2"}) {
		t.Errorf("Workloads() = %v, want them by UID", uids)
	}
	if !slices.Equal(hosts, []string{"z/b", "a/b", web.String()}) {
		t.Errorf("Services() = %v, want them by hostname, then as they came", hosts)
	}
	got, err := json.Marshal(s.StagedEndpoints())
	if want := `{"x/y":{"1":{"port":{"80":8080},"status":"Healthy","workloadUid":"1"}}}`; err != nil || string(got) != want {
		t.Errorf("staged = %s, %v, want %s", got, err, want)
	}
}
