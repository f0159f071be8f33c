package local

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"ztunnel/proxy/rbac"
	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var addresses = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.IgnoreUnexported(workload.Workload{}, workload.Service{}),
}

var web = workload.NamespacedHostname{Namespace: "shop", Hostname: "web.shop.svc.cluster.local"}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func mustParse(t *testing.T, text string) *Content {
	t.Helper()
	c, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return c
}

func readTestdata(tb testing.TB, name string) string {
	tb.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func TestFull(t *testing.T) {
	c := mustParse(t, readTestdata(t, "full.yaml"))
	wantWorkload := &workload.Workload{
		UID: "c1//Pod/shop/web-0", Name: "web-0", Namespace: "shop", TrustDomain: "td", ServiceAccount: "web", Network: "nw", WorkloadName: "web",
		WorkloadType: "pod", CanonicalName: "web", CanonicalRevision: "v1", Hostname: "h", Node: "n1", ClusterID: "c1",
		Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("::3")}, Protocol: workload.HBONE,
		NetworkMode: workload.HostNetwork, Status: workload.Unhealthy,
		Waypoint:              &workload.Gateway{Address: workload.NetworkAddress{Addr: netip.MustParseAddr("127.0.0.10")}, Port: 15008},
		NetworkGateway:        &workload.Gateway{Hostname: workload.NamespacedHostname{Namespace: "gw", Hostname: "gw.example.com"}, Port: 15009},
		NativeTunnel:          true,
		ApplicationTunnel:     &workload.ApplicationTunnel{Protocol: workload.AppTunnelProxy, Port: 15088},
		AuthorizationPolicies: []string{"shop/only-web"}, Locality: workload.Locality{Region: "r", Zone: "z", Subzone: "s"},
		Services: map[workload.NamespacedHostname]workload.PortMap{web: {80: 8080, 443: 8443}}, Capacity: 0,
	}
	wantService := &workload.Service{
		Name: "web", Namespace: "shop", Hostname: web.Hostname,
		VIPs:     []workload.NetworkAddress{{Addr: netip.MustParseAddr("127.10.0.9")}, {Network: "nw", Addr: netip.MustParseAddr("2001:db8::9")}},
		CIDRVIPs: []workload.CIDRVIP{{Network: "nw", Prefix: netip.MustParsePrefix("10.0.0.1/8")}}, Ports: workload.PortMap{80: 8080, 443: 0},
		SubjectAltNames: []string{"spiffe://td/ns/shop/sa/web", "other"}, SANs: []spiffe.ID{{TrustDomain: "td", Namespace: "shop", ServiceAccount: "web"}},
		Waypoint:          &workload.Gateway{Hostname: workload.NamespacedHostname{Namespace: "shop", Hostname: "wp"}, Port: 15008},
		WeightedWaypoints: []workload.WeightedWaypoint{{Gateway: workload.Gateway{Hostname: workload.NamespacedHostname{Namespace: "shop", Hostname: "wp"}, Port: 15008}, Weight: 80}},
		LoadBalancer: &workload.LoadBalancer{Mode: workload.ModeFailover, HealthPolicy: workload.AllowAll, Preferences: []workload.Scope{
			workload.ScopeNetwork,
			workload.ScopeRegion, workload.ScopeZone, workload.ScopeSubzone, workload.ScopeNode, workload.ScopeCluster,
		}},
		IPFamilies: workload.FamiliesDual, Canonical: true, Visibility: workload.VisibilityNamespace,
	}
	str := func(k rbac.StringKind, v string) []rbac.StringMatch { return []rbac.StringMatch{{Kind: k, Value: v}} }
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	wantPolicy := &rbac.Policy{Name: "only-web", Namespace: "shop", Scope: rbac.WorkloadSelector, Action: rbac.Deny, DryRun: true, Rules: []rbac.Rule{{{{
		Namespaces: append(str(rbac.Exact, "a"), str(rbac.Presence, "")...), NotNamespaces: str(rbac.Prefix, "b"),
		ServiceAccounts:    []rbac.ServiceAccountMatch{{Namespace: "n", ServiceAccount: "s"}},
		NotServiceAccounts: []rbac.ServiceAccountMatch{{Namespace: "n2", ServiceAccount: "s2"}},
		Principals:         str(rbac.Exact, "cluster.local/ns/shop/sa/web"),
		NotPrincipals:      append(str(rbac.Suffix, "x"), append(str(rbac.Presence, ""), str(rbac.Exact, "")...)...),
		SourceIPs:          prefix("127.0.0.1/24"), NotSourceIPs: prefix("10.0.0.0/8"), DestinationIPs: prefix("::1/128"), NotDestinationIPs: prefix("0.0.0.0/0"),
		DestinationPorts: []uint16{80, 443}, NotDestinationPorts: []uint16{65535},
	}}, {}}, {}}}
	if d := cmp.Diff([]*workload.Workload{wantWorkload}, c.Workloads, addresses); d != "" {
		t.Errorf("workloads differ (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]*workload.Service{wantService}, c.Services, addresses); d != "" {
		t.Errorf("services differ (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]*rbac.Policy{wantPolicy}, c.Policies, addresses, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("policies differ (-want +got):\n%s", d)
	}
	wantEndpoints := map[workload.NamespacedHostname][]workload.StaticEndpoint{web: {{Key: "vm", WorkloadUID: "vm-uid", Ports: workload.PortMap{80: 81}, Status: workload.Unhealthy}}}
	if d := cmp.Diff(wantEndpoints, c.Endpoints); d != "" {
		t.Errorf("endpoints differ (-want +got):\n%s", d)
	}
	if len(c.Warnings) != 0 {
		t.Errorf("warnings = %q, want none", c.Warnings)
	}
}

const minimalWorkload = "{workloadIps: [], namespace: ns, services: {}}"

func TestDefaults(t *testing.T) {
	c := mustParse(t, "workloads: ["+minimalWorkload+"]\nservices: [{name: n, namespace: ns, hostname: h, vips: [], ports: {}}]\npolicies: []")
	wantWorkload := &workload.Workload{
		Namespace: "ns", TrustDomain: "cluster.local", ServiceAccount: "default", Capacity: 1,
		Services: map[workload.NamespacedHostname]workload.PortMap{},
	}
	wantService := &workload.Service{Name: "n", Namespace: "ns", Hostname: "h", Ports: workload.PortMap{}}
	if d := cmp.Diff(wantWorkload, c.Workloads[0], addresses); d != "" {
		t.Errorf("workload differs (-want +got):\n%s", d)
	}
	if d := cmp.Diff(wantService, c.Services[0], addresses); d != "" {
		t.Errorf("service differs (-want +got):\n%s", d)
	}
	w := mustParse(t, `workloads: [{workloadIps: [], namespace: ns, services: {}, trustDomain: "", serviceAccount: "", capacity: 3, waypoint: null, uid: }]`).Workloads[0]
	if w.TrustDomain != "" || w.ServiceAccount != "" || w.Capacity != 3 || w.Waypoint != nil || w.UID != "" {
		t.Errorf("workload = %+v, want the values as they stand", w)
	}
	for _, text := range []string{"{}", "workloads:\nservices:\npolicies:", "workloads: []", "# nothing\n---\n{}\n", `{"policies": []}`} {
		if c := mustParse(t, text); len(c.Workloads)+len(c.Services)+len(c.Policies) != 0 {
			t.Errorf("Parse(%q) = %+v, want nothing", text, c)
		}
	}
}

// Anchors and aliases are YAML like any other.
func TestAliases(t *testing.T) {
	c := mustParse(t, "workloads: [&w "+minimalWorkload+", *w]\n")
	if len(c.Workloads) != 2 || c.Workloads[1].Namespace != "ns" {
		t.Errorf("workloads = %v, want two", c.Workloads)
	}
	if len(c.Warnings) != 1 || c.Warnings[0] != `workloads[1] replaces workloads[0]: both have the uid ""` {
		t.Errorf("warnings = %q, want the uid", c.Warnings)
	}
	item := "{}"
	anchors := "workloads: []\npolicies:\n- {name: n, namespace: n, scope: Global, action: Deny, dryRun: false, rules: [&r [&c [&m " + item
	anchors += strings.Repeat(", *m", 500) + "]" + strings.Repeat(", *c", 500) + "]" + strings.Repeat(", *r", 500) + "]}\n"
	if _, err := Parse([]byte(anchors)); err == nil || !strings.Contains(err.Error(), "aliases of the document stand for too many values") {
		t.Errorf("Parse of 125 million matches = %v, want a refusal", err)
	}
	if _, err := Parse([]byte("policies: &p [*p]")); err == nil {
		t.Errorf("Parse of a list within itself succeeded")
	}
}

func TestStaticDump(t *testing.T) {
	got, err := json.Marshal(mustParse(t, readTestdata(t, "minimal.yaml")))
	want := `{"policies":[{"action":"Allow","dryRun":false,"name":"only-web","namespace":"shop","rules":[[[{"principals":[{"Exact":"cluster.local/ns/shop/sa/web"}]}]]],` +
		`"scope":"Namespace"}],"services":[{"canonical":false,"endpoints":{},"hostname":"web.shop.svc.cluster.local","name":"web","namespace":"shop","ports":{"80":8080},` +
		`"subjectAltNames":[],"vips":["/127.10.0.9"],"visibility":"Public"}],"workloads":[{"capacity":1,"clusterId":"","name":"web-0","namespace":"shop",` +
		`"networkMode":"Standard","node":"n1","protocol":"HBONE","serviceAccount":"web","services":{"shop/web.shop.svc.cluster.local":{"80":8080}},` +
		`"status":"Healthy","trustDomain":"cluster.local","uid":"c1//Pod/shop/web-0","workloadIps":["127.0.0.3"]}]}`
	if d := cmp.Diff(want, string(got)); err != nil || d != "" {
		t.Errorf("Marshal: %v, differs (-want +got):\n%s", err, d)
	}
	got, err = json.Marshal((&Source{}).cfg.Path == "" && New(Config{}).Loaded() != nil)
	if string(got) != "true" || err != nil {
		t.Errorf("Loaded() of nothing is nil")
	}
	got, err = json.Marshal(New(Config{}).Loaded())
	if want := `{"policies":[],"services":[],"workloads":[]}`; err != nil || string(got) != want {
		t.Errorf("Marshal of nothing = %s, %v, want %s", got, err, want)
	}
	full, err := json.Marshal(mustParse(t, readTestdata(t, "full.yaml")))
	if want := `"endpoints":{"vm":{"port":{"80":81},"status":"Unhealthy","workloadUid":"vm-uid"}}`; err != nil || !strings.Contains(string(full), want) {
		t.Errorf("Marshal = %s, %v, want it to contain %s", full, err, want)
	}
}

func TestApply(t *testing.T) {
	store, policies := workload.NewStore(workload.Config{}), rbac.NewSet(discard(), false)
	src := New(Config{Inline: readTestdata(t, "minimal.yaml"), Store: store, Policies: policies, Log: discard()})
	if err := src.Load(); err != nil {
		t.Fatal(err)
	}
	svc := store.ServiceByVIP("", netip.MustParseAddr("127.10.0.9"), "shop", true)
	w := store.Workload("", netip.MustParseAddr("127.0.0.3"))
	if svc == nil || w == nil {
		t.Fatalf("ServiceByVIP = %v, Workload = %v, want both", svc, w)
	}
	if e := store.Endpoints(svc); len(e) != 1 || e[0].Workload != w || e[0].Ports[80] != 8080 {
		t.Errorf("Endpoints = %v, want the workload with port 8080", e)
	}
	if got := store.ServicesOf(w); len(got) != 1 || got[0] != svc {
		t.Errorf("ServicesOf = %v, want the service", got)
	}
	if got := policies.Policies(); len(got) != 1 || got[0].Key() != "shop/only-web" {
		t.Errorf("Policies = %v, want shop/only-web", got)
	}
	if len(src.Loaded().Workloads) != 1 {
		t.Errorf("Loaded() = %v, want what was loaded", src.Loaded())
	}
}

func TestParseErrors(t *testing.T) {
	const policy = "policies:\n- name: p\n  namespace: n\n  scope: Global\n  action: Allow\n  dryRun: false\n  rules:\n  - - - "
	const svc = "services:\n- {name: n, namespace: n, hostname: h, vips: [], ports: {}, "
	const wl = "workloads:\n- {workloadIps: [], namespace: ns, services: {}, "
	tests := []struct{ in, want string }{
		{"", "the document is empty; an empty configuration is {}"},
		{"# nothing", "the document is empty; an empty configuration is {}"},
		{"{}\n---\n{}", "line 2: more than one document"},
		{"a: [", "parse: yaml: "},
		{"[]", "line 1: expected a map, got a list"},
		{"null", "line 1: expected a map, got nothing"},
		{"workload: []", "workload (line 1): unknown field; known are policies, services, workloads"},
		{"workloads: {}", "workloads (line 1): expected a list, got a map"},
		{"workloads: []\nworkloads: []", "workloads (line 2): is there twice"},
		{"<<: {}", `<< (line 1): unknown field`},
		{"workloads: [x]", `workloads[0] (line 1): expected a map, got "x"`},
		{"workloads:\n- namespace: ns\n  services: {}", "workloads[0].workloadIps (line 2): missing"},
		{"workloads:\n- namespace: ns\n  workloadIps: []", "workloads[0].services (line 2): missing"},
		{"workloads:\n- services: {}\n  workloadIps: []", "workloads[0].namespace (line 2): missing"},
		{"workloads:\n- namespace: ns\n  services: {}\n  workloadIps: [10.0.0.1, 10.0.0.256]", `workloads[0].workloadIps[1] (line 4): "10.0.0.256" is not an IP address`},
		{"workloads:\n- {namespace: ns, services: {}, workloadIps: null}", "workloads[0].workloadIps (line 2): expected a list, got nothing"},
		{"workloads:\n- {namespace: null, services: {}, workloadIps: []}", "workloads[0].namespace (line 2): expected a plain value, got nothing"},
		{"workloads:\n- {namespace: ns, services: {}, workloadIps: ['fe80::1%eth0']}", `is not an IP address`},
		{wl + "workloadIPs: []}", "workloads[0].workloadIPs (line 2): unknown field; known are applicationTunnel, "},
		{wl + "protocol: hbone}", `workloads[0].protocol (line 2): expected one of TCP, HBONE, got "hbone"`},
		{wl + "networkMode: Host}", `workloads[0].networkMode (line 2): expected one of Standard, HostNetwork, got "Host"`},
		{wl + "status: []}", `workloads[0].status (line 2): expected one of Healthy, Unhealthy, got a list`},
		{wl + "nativeTunnel: yes}", `workloads[0].nativeTunnel (line 2): expected true or false, got "yes"`},
		{wl + "capacity: -1}", `workloads[0].capacity (line 2): expected a number from 0 to 4294967295, got "-1"`},
		{wl + "capacity: {}}", `workloads[0].capacity (line 2): expected a plain value, got a map`},
		{wl + "name: !Exact x}", `workloads[0].name (line 2): the tag !Exact means nothing here`},
		{wl + "locality: {region: r, zone: z}}", "workloads[0].locality.subzone (line 2): missing"},
		{wl + "locality: {region: r, zone: z, subzone: s, rack: r}}", "workloads[0].locality.rack (line 2): unknown field"},
		{wl + "waypoint: {destination: x, hboneMtlsPort: 1}}", `workloads[0].waypoint.destination (line 2): "x" is not a destination`},
		{wl + "waypoint: {destination: n/x}}", `workloads[0].waypoint.hboneMtlsPort (line 2): missing`},
		{wl + "waypoint: {destination: n/x, hboneMtlsPort: 65536}}", `workloads[0].waypoint.hboneMtlsPort (line 2): expected a number from 0 to 65535, got "65536"`},
		{wl + "applicationTunnel: {port: 1}}", `workloads[0].applicationTunnel.protocol (line 2): missing`},
		{wl + "authorizationPolicies: [p]}", `workloads[0].authorizationPolicies[0] (line 2): "p" is not a policy: expected NAMESPACE/NAME`},
		{"workloads:\n- {namespace: ns, workloadIps: [], services: {h: {}}}", `workloads[0].services.h (line 2): the key "h" is not a service: expected NAMESPACE/HOSTNAME`},
		{"workloads:\n- {namespace: ns, workloadIps: [], services: {n/h: {http: 80}}}", `workloads[0].services["n/h"].http (line 2): the key "http" is not a port`},
		{"workloads:\n- {namespace: ns, workloadIps: [], services: {n/h: {80: http}}}", `workloads[0].services["n/h"].80 (line 2): expected a number from 0 to 65535, got "http"`},
		{"workloads:\n- {namespace: ns, workloadIps: [], services: {n/h: {80: 1, '80': 2}}}", `workloads[0].services["n/h"].80 (line 2): is there twice`},
		{"workloads:\n- {namespace: ns, workloadIps: [], services: {? [a] : 1}}", `workloads[0].services (line 2): expected a plain value, got a list`},
		{"services: [{}]", "services[0].name (line 1): missing"},
		{svc + "vip: []}", "services[0].vip (line 2): unknown field"},
		{"services:\n- {name: n, namespace: n, hostname: h, ports: {}, vips: [10.0.0.1]}", `services[0].vips[0] (line 2): "10.0.0.1" is not an address: expected NETWORK/IP or /IP`},
		{svc + "cidrVips: [{network: n, cidr: 10.0.0.1}]}", `services[0].cidrVips[0].cidr (line 2): "10.0.0.1" is not an address range: expected IP/LENGTH`},
		{svc + "cidrVips: [{network: n, cidr: 10.0.0.0/8, name: x}]}", `services[0].cidrVips[0].name (line 2): unknown field; known are cidr, network`},
		{svc + "endpoints: {u: {port: {}, status: Healthy}}}", `services[0].endpoints.u.workloadUid (line 2): missing`},
		{svc + "weightedWaypoints: [{weight: 1}]}", `services[0].weightedWaypoints[0].destination (line 2): missing`},
		{svc + "loadBalancer: {mode: Strict, healthPolicy: AllowAll}}", `services[0].loadBalancer.routingPreferences (line 2): missing`},
		{svc + "loadBalancer: {mode: Strict, healthPolicy: AllowAll, routingPreferences: [Rack]}}", `services[0].loadBalancer.routingPreferences[0] (line 2): expected one of Region, Zone,`},
		{svc + "ipFamilies: Automatic}", `services[0].ipFamilies (line 2): expected one of Dual, IPv4, IPv6, got "Automatic"`},
		{"policies: [{name: p}]", "policies[0].namespace (line 1): missing"},
		{policy + "principal: [!Exact x]", "policies[0].rules[0][0][0].principal (line 8): unknown field; known are destinationIps, "},
		{policy + "principals: [x]", `policies[0].rules[0][0][0].principals[0] (line 8): expected !Exact, !Prefix, !Suffix or !Presence and a value, got "x"`},
		{policy + "principals: [!exact x]", `principals[0] (line 8): expected !Exact`},
		{policy + "principals: [{Exact: x, Prefix: y}]", `principals[0] (line 8): expected a map with one key`},
		{policy + "principals: [{exact: x}]", `principals[0] (line 8): expected !Exact`},
		{policy + "principals: [{Exact: [x]}]", `principals[0].Exact (line 8): expected a string, got a list`},
		{policy + "principals: [!Presence [x]]", `principals[0] (line 8): Presence takes no value`},
		{policy + "principals: [!Presence x]", `principals[0] (line 8): Presence takes no value`},
		{policy + "serviceAccounts: [{namespace: n}]", `serviceAccounts[0].serviceAccount (line 8): missing`},
		{policy + "serviceAccounts: [{namespace: n, serviceAccount: s, name: x}]", `serviceAccounts[0].name (line 8): unknown field`},
		{policy + "sourceIps: [10.0.0.1]", `sourceIps[0] (line 8): "10.0.0.1" is not an address range`},
		{policy + "destinationPorts: [http]", `destinationPorts[0] (line 8): expected a number from 0 to 65535, got "http"`},
	}
	for _, tt := range tests {
		c, err := Parse([]byte(tt.in))
		if err == nil || !strings.Contains(err.Error(), tt.want) || c != nil {
			t.Errorf("Parse(%q) = %v, %v, want an error with %q", tt.in, c, err, tt.want)
		}
		var fe *FieldError
		if !errors.As(err, &fe) && !strings.HasPrefix(tt.want, "parse: ") {
			t.Errorf("Parse(%q) error is a %T, want a *FieldError", tt.in, err)
		}
	}
}

func TestStringMatchForms(t *testing.T) {
	for in, want := range map[string]rbac.StringMatch{
		"!Exact foo": {Kind: rbac.Exact, Value: "foo"}, "{Exact: foo}": {Kind: rbac.Exact, Value: "foo"}, `!Exact "5"`: {Kind: rbac.Exact, Value: "5"},
		"!Exact 5": {Kind: rbac.Exact, Value: "5"}, "{Exact: 5}": {Kind: rbac.Exact, Value: "5"}, `!Exact ""`: {Kind: rbac.Exact},
		"!Prefix foo": {Kind: rbac.Prefix, Value: "foo"}, "{Suffix: foo}": {Kind: rbac.Suffix, Value: "foo"}, "!Presence []": {Kind: rbac.Presence},
		"!Presence ": {Kind: rbac.Presence}, "!Presence ~": {Kind: rbac.Presence}, "{Presence: []}": {Kind: rbac.Presence}, "{Presence: null}": {Kind: rbac.Presence}, "!Presence {}": {Kind: rbac.Presence},
		"!Presence null": {Kind: rbac.Presence}, "{Presence: {}}": {Kind: rbac.Presence},
	} {
		c, err := Parse([]byte("policies: [{name: p, namespace: n, scope: Global, action: Allow, dryRun: false, rules: [[[{principals: [" + in + "]}]]]}]"))
		if err != nil {
			t.Errorf("Parse of %s: %v", in, err)
			continue
		}
		if got := c.Policies[0].Rules[0][0][0].Principals[0]; got != want {
			t.Errorf("Parse of %s = %+v, want %+v", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(readTestdata(f, "full.yaml"))
	f.Add(readTestdata(f, "minimal.yaml"))
	f.Add("workloads: [&w " + minimalWorkload + ", *w]")
	f.Add("{}\n---\n{}")
	f.Fuzz(func(t *testing.T, in string) {
		c, err := Parse([]byte(in))
		if err != nil {
			if c != nil {
				t.Fatalf("Parse = %v with error %v", c, err)
			}
			return
		}
		out, err := json.Marshal(c)
		if err != nil {
			t.Fatalf("Marshal: %v", err)
		}
		c.Apply(workload.NewStore(workload.Config{}), rbac.NewSet(discard(), false))
		// The dump is a configuration itself, and says the same.
		again, err := Parse(out)
		if err != nil {
			t.Fatalf("Parse of the dump %s: %v", out, err)
		}
		if len(again.Workloads) != len(c.Workloads) || len(again.Policies) != len(c.Policies) {
			t.Fatalf("the dump has %d workloads and %d policies, want %d and %d", len(again.Workloads), len(again.Policies), len(c.Workloads), len(c.Policies))
		}
	})
}
