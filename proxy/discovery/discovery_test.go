package discovery

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/api/securityapi"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/workload"
)

// names are the keys of a state, without kinds.
func (w *world) names() []string {
	var names []string
	for name := range state(w.T, w.store, w.policies) {
		_, name, _ = strings.Cut(name, " ")
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// One resource that cannot be accepted rejects only itself: the answer names it and the reason, what it replaced stays, the
// others are applied.
func TestRejectionIsPartial(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open()
	kept := pod("kept", "web")
	kept.Addresses = [][]byte{{10, 0, 0, 1}}
	if got := w.push(st, AddressType, []proto.Message{kept}); got != "" {
		t.Fatalf("rejected: %s", got)
	}
	bad := proto.CloneOf(kept)
	bad.Addresses = [][]byte{make([]byte, 9)}
	service := &workloadapi.Service{Namespace: "shop", Hostname: "bad.host", Waypoint: &workloadapi.GatewayAddress{}}
	garbage := &discoveryapi.Resource{Name: "garbage", Resource: &anypb.Any{Value: []byte{0xff, 0xff, 0xff}}}
	st.Send(t, &discoveryapi.DeltaDiscoveryResponse{
		TypeUrl: AddressType, Nonce: "n",
		Resources: []*discoveryapi.Resource{
			resource(t, bad), resource(t, pod("good", "web")), resource(t, service), garbage,
			{Name: "missing"},
			{Name: "empty", Resource: &anypb.Any{}},
		},
	})
	answer := st.Recv(t).GetErrorDetail()
	lines := strings.Split(answer.GetMessage(), "; ")
	want := []string{
		uid("kept") + ": failed to parse address, had 9 bytes",
		"shop/bad.host: nonempty gateway address is missing address",
		"garbage: decode: failed to decode Protobuf message: ",
		"missing: XDS payload without resource",
		"empty: address is neither workload nor service",
	}
	if answer.GetCode() != 3 || len(lines) != len(want) {
		t.Fatalf("answer %v, want the code 3 and %d rejections", answer, len(want))
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) {
			t.Errorf("rejection %q, want one that begins %q", lines[i], want[i])
		}
	}
	if diff := cmp.Diff([]string{uid("good"), uid("kept")}, w.names()); diff != "" {
		t.Errorf("in force (-want +got):\n%s", diff)
	}
	if got := w.store.WorkloadByUID(uid("kept")).Addrs; !slices.Equal(got, []netip.Addr{netip.MustParseAddr("10.0.0.1")}) {
		t.Errorf("addresses %v of what was rejected later, want those from before", got)
	}
}

// Removals are taken as workloads first, then as services, and never rejected.
func TestRemovals(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open()
	service := &workloadapi.Service{Namespace: "shop", Hostname: "web.host"}
	other := &workloadapi.Service{Namespace: "shop", Hostname: "other.host"}
	w.push(st, AddressType, []proto.Message{pod("a", "web"), pod("b", "web"), service, other})
	odd := []string{"", "nothing", "/", "no/such.host", "Kubernetes//Pod/default/none", "/10.1.2.3"}
	if got := w.push(st, AddressType, nil, append(odd, uid("a"), "shop/web.host")...); got != "" {
		t.Errorf("rejected: %s", got)
	}
	if diff := cmp.Diff([]string{uid("b"), "shop/other.host"}, w.names()); diff != "" {
		t.Errorf("in force (-want +got):\n%s", diff)
	}
	// A name that is also in the resources of the response is gone.
	w.push(st, AddressType, []proto.Message{pod("b", "db")}, uid("b"))
	if diff := cmp.Diff([]string{"shop/other.host"}, w.names()); diff != "" {
		t.Errorf("in force (-want +got):\n%s", diff)
	}
}

// Identities are fetched for workloads that come to this node and take part in the mesh, and forgotten with the last
// workload of their namespace and service account, also if that has got another identity or node.
func TestHooks(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open()
	plain, native, far := pod("plain", "plain"), pod("native", "native"), pod("far", "far")
	plain.TunnelProtocol = workloadapi.TunnelProtocol_NONE
	native.TunnelProtocol, native.NativeTunnel = workloadapi.TunnelProtocol_NONE, true
	far.Node = "node-b"
	moved := pod("moved", "mover")
	moved.Node = "node-b"
	const ns = "cluster.local/ns/shop/sa/"
	for _, step := range []struct {
		name    string
		put     []proto.Message
		removed []string
		want    []string
	}{
		{"workloads come", []proto.Message{pod("a", "web"), pod("b", "web"), plain, native, far}, nil, []string{"prefetch " + ns + "web", "prefetch " + ns + "web", "prefetch " + ns + "native"}},
		{"one of two goes", nil, []string{uid("a")}, nil},
		{"the second is updated", []proto.Message{pod("b", "web")}, nil, []string{"prefetch " + ns + "web"}},
		{"the second goes", nil, []string{uid("b")}, []string{"forget " + ns + "web"}},
		{"one that is not local goes", nil, []string{uid("far")}, nil},
		{"one that took no part goes", nil, []string{uid("plain")}, []string{"forget " + ns + "plain"}},
		{"one gets another identity", []proto.Message{pod("native", "other")}, nil, []string{"prefetch " + ns + "other", "forget " + ns + "native"}},
		{"replaced by one of the same identity", []proto.Message{pod("c", "other")}, []string{uid("native")}, []string{"prefetch " + ns + "other"}},
		{"comes and goes at once", []proto.Message{pod("d", "short")}, []string{uid("d")}, nil},
		{"comes twice at once", []proto.Message{pod("e", "first"), pod("e", "second")}, nil, []string{"prefetch " + ns + "second"}},
		{"comes", []proto.Message{pod("moved", "mover")}, nil, []string{"prefetch " + ns + "mover"}},
		{"moves away", []proto.Message{moved}, nil, []string{"forget " + ns + "mover"}},
		{"unknown goes", nil, []string{uid("never")}, nil},
	} {
		if got := w.push(st, AddressType, step.put, step.removed...); got != "" {
			t.Errorf("%s: rejected: %s", step.name, got)
		}
		if diff := cmp.Diff(step.want, w.takeHooks()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
}

// Without the name of a node nothing is fetched, and every workload counts as local for what is forgotten.
func TestHooksWithoutNode(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.NodeName = "" })
	st := w.open()
	w.push(st, AddressType, []proto.Message{pod("a", "web")})
	w.push(st, AddressType, nil, uid("a"))
	if diff := cmp.Diff([]string{"forget cluster.local/ns/shop/sa/web"}, w.takeHooks()); diff != "" {
		t.Errorf("hooks (-want +got):\n%s", diff)
	}
}

// Hooks are not needed.
func TestNoHooks(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Prefetch, c.Forget = nil, nil })
	st := w.open()
	w.push(st, AddressType, []proto.Message{pod("a", "web")})
	if got := w.push(st, AddressType, nil, uid("a")); got != "" || len(w.names()) > 0 {
		t.Errorf("rejected %q, in force %q", got, w.names())
	}
}

func policy(name string, action securityapi.Action, matches ...*securityapi.Match) *securityapi.Authorization {
	return &securityapi.Authorization{
		Name: name, Namespace: "shop", Scope: securityapi.Scope_NAMESPACE, Action: action,
		Rules: []*securityapi.Rule{{Clauses: []*securityapi.Clause{{Matches: matches}}}},
	}
}

// A policy with broken elements is rejected and in force; one that nobody can understand is rejected alone. What is claimed
// on the next stream includes the former, so that its removal is noticed.
func TestPolicies(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open()
	broken := policy("broken", securityapi.Action_DENY, &securityapi.Match{SourceIps: []*securityapi.Address{{Address: []byte{1}}}})
	unheard := policy("unheard", 99)
	good := policy("good", securityapi.Action_ALLOW)
	got := w.push(st, AuthorizationType, []proto.Message{broken, unheard, good})
	const want = "shop/broken: source_ips: address of 1 bytes; shop/unheard: decode error: unknown enumeration value 99"
	if !strings.HasPrefix(got, "shop/broken: ") || !strings.Contains(got, "address of 1 bytes; shop/unheard: decode error: unknown enumeration value 99") {
		t.Errorf("rejected: %s, want %s", got, want)
	}
	if diff := cmp.Diff([]string{"shop/broken", "shop/good"}, w.names()); diff != "" {
		t.Errorf("in force (-want +got):\n%s", diff)
	}
	st.End(nil)
	st = w.plane.Accept(t)
	st.Recv(t)
	if diff := cmp.Diff(map[string]string{"shop/broken": "", "shop/good": ""}, st.Recv(t).GetInitialResourceVersions()); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	changed := w.policies.Changed()
	if got := w.push(st, AuthorizationType, nil, "shop/broken", "shop/good", "shop/never", ""); got != "" || len(w.names()) > 0 {
		t.Errorf("rejected %q, in force %q, want nothing", got, w.names())
	}
	select {
	case <-changed:
	default:
		t.Error("a change of policies was not announced")
	}
}

// A response without an accepted policy is no change.
func TestNoChangeOfPolicies(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open()
	changed := w.policies.Changed()
	w.push(st, AuthorizationType, []proto.Message{policy("unheard", 99)})
	select {
	case <-changed:
		t.Error("a change was announced")
	default:
	}
}

// A policy is found again by the name of its resource, whatever it calls itself.
func TestPolicyOfAnotherName(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open()
	put := func(resourceName, name string, removed ...string) {
		r := resource(t, policy(name, securityapi.Action_DENY))
		r.Name = resourceName
		st.Send(t, &discoveryapi.DeltaDiscoveryResponse{TypeUrl: AuthorizationType, Nonce: "n", Resources: []*discoveryapi.Resource{r}, RemovedResources: removed})
		st.Recv(t)
	}
	put("foo1", "a")
	if diff := cmp.Diff([]string{"shop/a"}, w.names()); diff != "" {
		t.Errorf("in force (-want +got):\n%s", diff)
	}
	put("foo1", "b")
	if diff := cmp.Diff([]string{"shop/b"}, w.names()); diff != "" {
		t.Errorf("in force after it took another name (-want +got):\n%s", diff)
	}
	put("foo2", "c", "foo1")
	if diff := cmp.Diff([]string{"shop/c"}, w.names()); diff != "" {
		t.Errorf("in force after its removal (-want +got):\n%s", diff)
	}
	put("foo2", "d", "foo2")
	if len(w.names()) > 0 {
		t.Errorf("in force %q, want nothing", w.names())
	}
}

// The content of a local configuration is the base on which the control plane puts its own.
func TestLocalBase(t *testing.T) {
	store := workload.NewStore(workload.Config{NodeName: testNode})
	store.Replace([]*workload.Workload{
		{UID: "local", Namespace: "shop", ServiceAccount: "web", Node: testNode},
		{UID: uid("a"), Namespace: "shop", ServiceAccount: "local", Node: testNode},
	}, nil, nil)
	w := newWorld(t, func(c *Config) {
		c.Store = store
		c.Policies.Replace([]*rbac.Policy{{Name: "base", Namespace: "shop"}})
	})
	st := w.open()
	w.push(st, AddressType, []proto.Message{pod("a", "other"), pod("b", "web")})
	w.push(st, AddressType, nil, uid("a"), uid("b"))
	if diff := cmp.Diff([]string{"local", "shop/base"}, w.names()); diff != "" {
		t.Errorf("in force (-want +got):\n%s", diff)
	}
	const td = "cluster.local/ns/shop/sa/"
	want := []string{"prefetch " + td + "other", "prefetch " + td + "web", "forget /ns/shop/sa/local", "forget " + td + "other"}
	if diff := cmp.Diff(want, w.takeHooks()); diff != "" {
		t.Errorf("hooks, want nothing forgotten that the base has (-want +got):\n%s", diff)
	}
}

// What is needed is asked for unless it is known, under the name that the control plane understands.
func TestNeed(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.OnDemand = true })
	st := w.open()
	known := pod("known", "web")
	known.Network, known.Addresses = "net", [][]byte{{10, 0, 0, 1}}
	service := &workloadapi.Service{Namespace: "shop", Hostname: "web.host", Addresses: []*workloadapi.NetworkAddress{{Network: "net", Address: []byte{10, 96, 0, 1}}}}
	external := pod("external", "web")
	external.Hostname = "ext.host"
	w.push(st, AddressType, []proto.Message{known, service, external})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	addr := netip.MustParseAddr
	w.NeedAddress(ctx, "net", addr("10.0.0.1"))
	w.NeedAddress(ctx, "net", addr("10.96.0.1"))
	w.NeedHostname(ctx, workload.NamespacedHostname{Namespace: "shop", Hostname: "web.host"})
	w.NeedHostname(ctx, workload.NamespacedHostname{Namespace: "shop", Hostname: "ext.host"})
	for _, key := range []string{uid("known"), "net/10.0.0.1", "net/10.96.0.1", "shop/web.host", "shop/ext.host"} {
		w.Need(ctx, key)
	}
	if r := st.Pending(); r != nil {
		t.Fatalf("request %v for something known", r)
	}
	for key, need := range map[string]func(){
		"net/10.0.0.9":    func() { w.NeedAddress(ctx, "net", addr("10.0.0.9")) },
		"/10.0.0.1":       func() { w.NeedAddress(ctx, "", addr("10.0.0.1")) },
		"/fd00::9":        func() { w.NeedAddress(ctx, "", addr("fd00::9")) },
		"shop/other.host": func() { w.NeedHostname(ctx, workload.NamespacedHostname{Namespace: "shop", Hostname: "other.host"}) },
		uid("new"):        func() { w.Need(ctx, uid("new")) },
		"noslash":         func() { w.Need(ctx, "noslash") },
	} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			need()
		}()
		if got := st.Recv(t).GetResourceNamesSubscribe(); !slices.Equal(got, []string{key}) {
			t.Errorf("subscribed to %q, want %q", got, key)
		}
		w.push(st, AddressType, nil, key)
		<-done
	}
}

// That an address is not known is nothing to warn of.
func TestUnknownAddressIsNoWarning(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, func(c *Config) {
		c.OnDemand = true
		c.Store = workload.NewStore(workload.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	})
	st := w.open()
	w.push(st, AddressType, nil, "/10.99.99.99", "net/fd00::1")
	if log.Len() > 0 {
		t.Errorf("log %s, want nothing", &log)
	}
	w.push(st, AddressType, nil, "shop/unknown.host")
	if !strings.Contains(log.String(), "unknown.host") {
		t.Errorf("log %s, want a line about the service", &log)
	}
}

// Without on-demand mode, or without a control plane, nothing is asked for, and nothing is allocated for it.
func TestNeedOtherwise(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open()
	var none *Discovery
	addr := netip.MustParseAddr("10.0.0.1")
	for _, d := range []*Discovery{w.Discovery, none} {
		if n := testing.AllocsPerRun(10, func() {
			d.NeedAddress(t.Context(), "net", addr)
			d.NeedHostname(t.Context(), workload.NamespacedHostname{Namespace: "a", Hostname: "b"})
			d.Need(t.Context(), "a/b")
		}); n > 0 {
			t.Errorf("%v allocations, want none", n)
		}
	}
	if r := st.Pending(); r != nil {
		t.Errorf("request %v", r)
	}
}
