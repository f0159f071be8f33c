package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// web is the service that most tests use.
var web = NamespacedHostname{"shop", "web.shop.svc.cluster.local"}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func vip(s string) NetworkAddress { return NetworkAddress{Addr: ip(s)} }

func cidr(s string) CIDRVIP { return CIDRVIP{Prefix: netip.MustParsePrefix(s)} }

// pod returns a workload with an address and the services it is an endpoint of.
func pod(uid, addr string, services ...NamespacedHostname) *Workload {
	w := &Workload{
		UID: uid, Name: uid, Namespace: "shop", TrustDomain: "cluster.local", ServiceAccount: "web", Capacity: 1,
		Services: map[NamespacedHostname]PortMap{},
	}
	if addr != "" {
		w.Addrs = []netip.Addr{ip(addr)}
	}
	for _, s := range services {
		w.Services[s] = PortMap{80: 8080}
	}
	return w
}

func unhealthy(w *Workload) *Workload {
	w.Status = Unhealthy
	return w
}

func service(key NamespacedHostname, vips ...string) *Service {
	s := &Service{Name: strings.Split(key.Hostname, ".")[0], Namespace: key.Namespace, Hostname: key.Hostname, Ports: PortMap{80: 8080}}
	for _, v := range vips {
		if strings.Contains(v, "/") {
			s.CIDRVIPs = append(s.CIDRVIPs, cidr(v))
		} else {
			s.VIPs = append(s.VIPs, vip(v))
		}
	}
	return s
}

func allowAll(s *Service) *Service {
	s.LoadBalancer = &LoadBalancer{HealthPolicy: AllowAll}
	return s
}

func private(s *Service) *Service {
	s.Visibility = VisibilityNamespace
	return s
}

func put(s *Store, values ...any) {
	var u Update
	for _, v := range values {
		switch v := v.(type) {
		case *Workload:
			u.Workloads = append(u.Workloads, v)
		case *Service:
			u.Services = append(u.Services, v)
		}
	}
	s.Apply(u)
}

func wantEndpoints(t *testing.T, s *Store, key NamespacedHostname, want ...string) {
	t.Helper()
	var got []string
	if svc := s.Service(key); svc != nil {
		for _, e := range s.Endpoints(svc) {
			got = append(got, e.Workload.UID)
		}
	}
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Endpoints(%s) differ (-want +got):\n%s", key, d)
	}
}

func wantStaged(t *testing.T, s *Store, want ...string) {
	t.Helper()
	var got []string
	for key, list := range s.StagedEndpoints() {
		for uid := range list {
			got = append(got, key.String()+" "+uid)
		}
	}
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("StagedEndpoints() differ (-want +got):\n%s", d)
	}
}

func wantWorkload(t *testing.T, s *Store, addr, want string) {
	t.Helper()
	got := ""
	if w := s.Workload("", ip(addr)); w != nil {
		got = w.UID
	}
	if got != want {
		t.Errorf("Workload(%s) = %q, want %q", addr, got, want)
	}
}

func TestEndpointsBeforeService(t *testing.T) {
	s := NewStore(Config{})
	put(s, pod("a", "10.0.0.1", web))
	wantStaged(t, s, web.String()+" a")
	if svc := s.ServiceByVIP("", ip("10.1.0.1"), "", false); svc != nil {
		t.Errorf("ServiceByVIP = %v, want none", svc)
	}
	put(s, service(web, "10.1.0.1"))
	wantStaged(t, s)
	wantEndpoints(t, s, web, "a")
}

func TestServiceVIPsFollowUpdate(t *testing.T) {
	s := NewStore(Config{})
	put(s, pod("a", "10.0.0.1", web), service(web, "10.1.0.1"))
	put(s, service(web, "10.1.0.1", "10.1.0.2"))
	one, two := s.ServiceByVIP("", ip("10.1.0.1"), "", false), s.ServiceByVIP("", ip("10.1.0.2"), "", false)
	if one == nil || one != two {
		t.Errorf("ServiceByVIP = %p and %p, want the same service", one, two)
	}
	wantEndpoints(t, s, web, "a")
	put(s, service(web, "10.1.0.2"))
	if svc := s.ServiceByVIP("", ip("10.1.0.1"), "", false); svc != nil {
		t.Errorf("ServiceByVIP of a removed address = %v, want none", svc)
	}
	if n := len(s.Services()); n != 1 {
		t.Errorf("Services() has %d services, want 1", n)
	}
	s.Apply(Update{Removed: []string{web.String()}})
	if s.ServiceByVIP("", ip("10.1.0.2"), "", false) != nil || s.ServiceByHostname(web.Hostname, "", false) != nil {
		t.Errorf("a removed service is still found")
	}
}

func TestRemovalOfUnknown(t *testing.T) {
	s := NewStore(Config{})
	put(s, pod("c//Pod/shop/a", "10.0.0.1", web), service(web, "10.1.0.1"))
	changed := s.LocalChanged()
	s.Apply(Update{
		Removed: []string{"/invalid", "none", "c//Pod/shop/gone", "shop/gone"}, RemovedWorkloads: []string{"x"},
		RemovedServices: []NamespacedHostname{{"a", "b"}},
	})
	wantEndpoints(t, s, web, "c//Pod/shop/a")
	wantWorkload(t, s, "10.0.0.1", "c//Pod/shop/a")
	select {
	case <-changed:
		t.Errorf("LocalChanged() is closed by removals of what was not there")
	default:
	}
	s.Apply(Update{Removed: []string{"c//Pod/shop/a"}})
	wantEndpoints(t, s, web)
	<-changed
}

func TestEndpointsDropOneByOne(t *testing.T) {
	s := NewStore(Config{})
	put(s, pod("a", "10.0.0.1", web), pod("b", "10.0.0.2", web), service(web, "10.1.0.1"))
	wantEndpoints(t, s, web, "a", "b")
	put(s, pod("a", "10.0.0.1"))
	wantEndpoints(t, s, web, "b")
	put(s, unhealthy(pod("b", "10.0.0.2", web)))
	wantEndpoints(t, s, web)
	w := pod("b", "10.0.0.2", web)
	w.Services[web] = PortMap{80: 9090}
	put(s, w)
	wantEndpoints(t, s, web, "b")
	if got := s.Endpoints(s.Service(web))[0].Ports[80]; got != 9090 {
		t.Errorf("port of the endpoint = %d, want 9090", got)
	}
}

func TestAddressShared(t *testing.T) {
	s := NewStore(Config{})
	p := pod("c//Pod/shop/a", "10.0.0.1")
	entry := pod("c/networking.istio.io/WorkloadEntry/shop/a", "10.0.0.1")
	put(s, p, entry)
	wantWorkload(t, s, "10.0.0.1", p.UID)
	put(s, pod(p.UID, "10.0.0.1"))
	wantWorkload(t, s, "10.0.0.1", p.UID)
	s.Apply(Update{RemovedWorkloads: []string{p.UID}})
	wantWorkload(t, s, "10.0.0.1", entry.UID)
	s.Apply(Update{RemovedWorkloads: []string{entry.UID}})
	wantWorkload(t, s, "10.0.0.1", "")
	wantEmpty(t, s)
}

// wantEmpty checks that nothing is left in any table.
func wantEmpty(t *testing.T, s *Store) {
	t.Helper()
	ix := s.ix
	for name, n := range map[string]int{
		"byUID": len(ix.byUID), "byAddr": len(ix.byAddr), "overlap": len(ix.overlap),
		"byHostname": len(ix.byHostname), "byInfo": len(ix.byInfo), "services": len(ix.services), "byHost": len(ix.byHost),
		"byVIP": len(ix.byVIP), "cidrs": len(ix.cidrs), "static": len(ix.static),
	} {
		if n != 0 {
			t.Errorf("table %s has %d keys, want none", name, n)
		}
	}
}

func TestAddressRank(t *testing.T) {
	s := NewStore(Config{})
	hbone := func(w *Workload) *Workload { w.Protocol = HBONE; return w }
	put(s, pod("plain", "10.0.0.1"))
	wantWorkload(t, s, "10.0.0.1", "plain")
	put(s, hbone(pod("hbone", "10.0.0.1")))
	wantWorkload(t, s, "10.0.0.1", "hbone")
	put(s, pod("x//Pod/1", "10.0.0.1"))
	wantWorkload(t, s, "10.0.0.1", "x//Pod/1")
	put(s, hbone(pod("x//Pod/2", "10.0.0.1")))
	wantWorkload(t, s, "10.0.0.1", "x//Pod/2")
	put(s, pod("plain", "10.0.0.1"), hbone(pod("x//Pod/3", "10.0.0.1")))
	wantWorkload(t, s, "10.0.0.1", "x//Pod/3") // of equals the last stored
	put(s, hbone(pod("x//Pod/2", "10.0.0.1")))
	wantWorkload(t, s, "10.0.0.1", "x//Pod/2")
	put(s, hbone(pod("x//Pod/2", "10.0.0.9"))) // changes its address
	wantWorkload(t, s, "10.0.0.1", "x//Pod/3")
	wantWorkload(t, s, "10.0.0.9", "x//Pod/2")
}

func TestAddressKeys(t *testing.T) {
	s := NewStore(Config{})
	host := pod("host", "10.0.0.7", web)
	host.NetworkMode = HostNetwork
	dual := pod("dual", "10.0.0.1")
	dual.Addrs = append(dual.Addrs, ip("2001:db8::1"), ip("10.0.0.1"))
	mapped := pod("mapped", "::ffff:10.0.0.2")
	other := pod("other", "10.0.0.1")
	other.Network = "net2"
	put(s, host, dual, mapped, other, service(web))
	wantWorkload(t, s, "10.0.0.7", "")
	if s.WorkloadByUID("host") != host {
		t.Errorf("WorkloadByUID(host) = %v, want it", s.WorkloadByUID("host"))
	}
	wantEndpoints(t, s, web, "host")
	wantWorkload(t, s, "10.0.0.1", "dual")
	wantWorkload(t, s, "2001:db8::1", "dual")
	wantWorkload(t, s, "10.0.0.2", "")
	wantWorkload(t, s, "::ffff:10.0.0.2", "mapped")
	if w := s.Workload("net2", ip("10.0.0.1")); w != other {
		t.Errorf("Workload(net2/10.0.0.1) = %v, want other", w)
	}
	s.Apply(Update{RemovedWorkloads: []string{"host", "dual", "mapped", "other"}, RemovedServices: []NamespacedHostname{web}})
	wantEmpty(t, s)
}

func TestHealthPolicy(t *testing.T) {
	all := NamespacedHostname{"shop", "all"}
	pods := func() []any {
		return []any{pod("a", "10.0.0.1", web, all), unhealthy(pod("b", "10.0.0.2", web, all))}
	}
	services := []any{service(web), allowAll(service(all))}
	for name, order := range map[string][][]any{"workloads first": {pods(), services}, "services first": {services, pods()}} {
		t.Run(name, func(t *testing.T) {
			s := NewStore(Config{})
			put(s, order[0]...)
			put(s, order[1]...)
			wantEndpoints(t, s, web, "a")
			wantEndpoints(t, s, all, "a", "b")
			put(s, service(all))
			wantEndpoints(t, s, all, "a")
			put(s, allowAll(service(all))) // the reference would have forgotten b
			wantEndpoints(t, s, all, "a", "b")
		})
	}
}

func TestStaging(t *testing.T) {
	s := NewStore(Config{})
	put(s, pod("a", "10.0.0.1", web), pod("b", "10.0.0.2", web))
	put(s, pod("a", "10.0.0.1"))
	wantStaged(t, s, web.String()+" b")
	s.Apply(Update{RemovedWorkloads: []string{"b"}})
	wantStaged(t, s)
	put(s, pod("a", "10.0.0.1", web))
	wantStaged(t, s, web.String()+" a")
	s.Apply(Update{RemovedWorkloads: []string{"a"}, RemovedServices: []NamespacedHostname{web}})
	wantStaged(t, s)
	wantEmpty(t, s)
}

func TestServiceAmongManyWorkloads(t *testing.T) {
	s := NewStore(Config{})
	u := Update{Services: []*Service{service(web)}}
	for i := range 50 {
		u.Workloads = append(u.Workloads, pod(fmt.Sprint("w", i), fmt.Sprintf("10.0.0.%d", i), web))
	}
	s.Apply(u)
	if n := len(s.Endpoints(s.Service(web))); n != 50 {
		t.Errorf("Endpoints has %d, want 50", n)
	}
	s.Apply(Update{Removed: []string{"w3", "w4"}})
	if n := len(s.Endpoints(s.Service(web))); n != 48 {
		t.Errorf("Endpoints has %d after removals, want 48", n)
	}
}

func TestEndpointsSurviveService(t *testing.T) {
	s := NewStore(Config{})
	put(s, pod("a", "10.0.0.1", web), service(web))
	old := s.Service(web)
	s.Apply(Update{RemovedServices: []NamespacedHostname{web}})
	if got := s.Endpoints(old); got != nil {
		t.Errorf("Endpoints of a removed service = %v, want none", got)
	}
	put(s, service(web))
	wantEndpoints(t, s, web, "a")
	if len(s.Endpoints(old)) != 1 {
		t.Errorf("Endpoints by an outdated pointer = %v, want the present ones", s.Endpoints(old))
	}
}

func TestLastOperationWins(t *testing.T) {
	s := NewStore(Config{})
	put(s, service(web), pod("a", "10.0.0.1", web), pod("a", "10.0.0.2"))
	wantEndpoints(t, s, web)
	wantWorkload(t, s, "10.0.0.1", "")
	wantWorkload(t, s, "10.0.0.2", "a")
	s.Apply(Update{Workloads: []*Workload{pod("a", "10.0.0.1", web)}, RemovedWorkloads: []string{"a"}})
	wantEndpoints(t, s, web)
	wantWorkload(t, s, "10.0.0.1", "")
}

func TestStaticEndpoints(t *testing.T) {
	s := NewStore(Config{})
	given := map[NamespacedHostname][]StaticEndpoint{web: {
		{Key: "a", WorkloadUID: "a", Ports: PortMap{80: 1}},
		{Key: "b", WorkloadUID: "b", Ports: PortMap{80: 2}},
		{Key: "sick", WorkloadUID: "b", Status: Unhealthy},
	}}
	s.Apply(Update{Services: []*Service{service(web)}, ServiceEndpoints: given, Workloads: []*Workload{pod("b", "10.0.0.2")}})
	wantEndpoints(t, s, web, "b")
	put(s, pod("a", "10.0.0.1"))
	wantEndpoints(t, s, web, "a", "b")
	put(s, pod("a", "10.0.0.1", web)) // what the workload says goes over what came with the service
	for _, e := range s.Endpoints(s.Service(web)) {
		if e.Workload.UID == "a" && e.Ports[80] != 8080 {
			t.Errorf("port of endpoint a = %d, want 8080", e.Ports[80])
		}
	}
	if len(s.Endpoints(s.Service(web))) != 2 {
		t.Errorf("Endpoints = %v, want 2", s.Endpoints(s.Service(web)))
	}
	put(s, unhealthy(pod("a", "10.0.0.1", web)))
	if got := s.DumpServices()[0].Endpoints; len(got) != 1 || got["b"].Port[80] != 2 {
		t.Errorf("dump of the endpoints = %v, want b alone", got)
	}
	put(s, allowAll(service(web)))
	wantEndpoints(t, s, web, "a", "b", "b")
	s.Apply(Update{RemovedServices: []NamespacedHostname{web}, RemovedWorkloads: []string{"a", "b"}})
	wantEmpty(t, s)
}

func TestLookups(t *testing.T) {
	s := NewStore(Config{})
	vm := pod("vm", "127.0.0.1")
	vm.Namespace, vm.Hostname = "default", "vm.example.com"
	a, b := NamespacedHostname{"default", "a"}, NamespacedHostname{"default", "b"}
	w := pod("w", "127.0.0.2", b, a, NamespacedHostname{"default", "unknown"})
	put(s, vm, w, service(a), service(b))
	wantWorkload(t, s, "127.0.0.1", "vm")
	wantWorkload(t, s, "127.0.0.9", "")
	if got := s.WorkloadByHostname(NamespacedHostname{"default", "vm.example.com"}); got != vm {
		t.Errorf("WorkloadByHostname = %v, want vm", got)
	}
	if got := s.WorkloadByHostname(NamespacedHostname{"other", "vm.example.com"}); got != nil {
		t.Errorf("WorkloadByHostname of another namespace = %v, want none", got)
	}
	if got := s.ServicesOf(w); len(got) != 2 || got[0].Hostname != "a" || got[1].Hostname != "b" {
		t.Errorf("ServicesOf = %v, want a and b", got)
	}
	if got := s.ServicesOf(nil); got != nil {
		t.Errorf("ServicesOf(nil) = %v, want none", got)
	}
	if s.Service(a) == nil || s.Service(NamespacedHostname{"x", "a"}) != nil {
		t.Errorf("Service: want a in its own namespace alone")
	}
}

func TestReplace(t *testing.T) {
	s := NewStore(Config{})
	put(s, pod("old", "10.0.0.1", web), service(web, "10.1.0.1"))
	changed := s.LocalChanged()
	s.Replace([]*Workload{pod("new", "10.0.0.2", web)}, []*Service{service(web, "10.1.0.2")},
		map[NamespacedHostname][]StaticEndpoint{web: {{Key: "new2", WorkloadUID: "new"}}})
	<-changed
	wantWorkload(t, s, "10.0.0.1", "")
	wantWorkload(t, s, "10.0.0.2", "new")
	wantEndpoints(t, s, web, "new", "new")
	if s.ServiceByVIP("", ip("10.1.0.1"), "", false) != nil {
		t.Errorf("an address of the old content is still found")
	}
	s.Replace(nil, nil, nil)
	wantEmpty(t, s)
}

func TestWaitLocal(t *testing.T) {
	info := Info{Name: "a", Namespace: "shop", ServiceAccount: "web"}
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(Config{NodeName: "n1"})
		local := pod("a", "10.0.0.1")
		local.Node = "n1"
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := s.WaitLocal(ctx, info)
		var we *WaitError
		if !errors.As(err, &we) || err.Error() != "timed out waiting for workload 'web.shop (a)' from xds" || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("WaitLocal = %v, want the time-out", err)
		}
		if len(s.waiting) != 0 {
			t.Errorf("a waiter is left behind")
		}
		ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got := make(chan *Workload, 2)
		for range cap(got) {
			go func() {
				w, _ := s.WaitLocal(ctx, info)
				got <- w
			}()
		}
		synctest.Wait()
		elsewhere := pod("a2", "10.0.0.3")
		elsewhere.Name, elsewhere.Node = "a", "n2"
		put(s, pod("b", "10.0.0.2"), elsewhere)
		synctest.Wait()
		if len(got) != 0 {
			t.Fatalf("WaitLocal returned for workloads that it does not wait for")
		}
		put(s, local)
		for range cap(got) {
			if w := <-got; w != local {
				t.Errorf("WaitLocal = %v, want the local workload", w)
			}
		}
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if w, err := s.WaitLocal(ctx, info); w != local || err != nil {
			t.Errorf("WaitLocal of what is there = %v, %v, want it at once", w, err)
		}
		if _, err := s.WaitLocal(ctx, Info{Name: "x"}); err == nil || !strings.Contains(err.Error(), "context canceled") {
			t.Errorf("WaitLocal cancelled = %v, want the reason", err)
		}
		if w := s.Local(info); w != local {
			t.Errorf("Local = %v, want the local workload", w)
		}
	})
}

// Replace, too, has to wake those who wait.
func TestWaitLocalReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(Config{})
		go func() {
			synctest.Wait()
			s.Replace([]*Workload{pod("a", "10.0.0.1")}, nil, nil)
		}()
		if w, err := s.WaitLocal(t.Context(), Info{Name: "a", Namespace: "shop", ServiceAccount: "web"}); err != nil || w == nil {
			t.Errorf("WaitLocal = %v, %v, want the workload", w, err)
		}
	})
}
