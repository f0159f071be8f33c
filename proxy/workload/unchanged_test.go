package workload

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"ztunnel/proxy/spiffe"
)

// other sets a field to something else than it is.
func other(t *testing.T, f reflect.Value) {
	t.Helper()
	switch v := f.Addr().Interface().(type) {
	case *[]netip.Addr:
		*v = []netip.Addr{ip("10.9.9.9")}
	case *map[NamespacedHostname]PortMap:
		*v = map[NamespacedHostname]PortMap{web: {1: 3}}
	case *PortMap:
		*v = PortMap{1: 3}
	case *[]spiffe.ID:
		*v = []spiffe.ID{{TrustDomain: "other"}}
	case *[]CIDRVIP:
		*v = []CIDRVIP{{Network: "other"}}
	default:
		switch f.Kind() {
		case reflect.String:
			f.SetString("other")
		case reflect.Bool:
			f.SetBool(!f.Bool())
		case reflect.Uint8, reflect.Uint16, reflect.Uint32:
			f.SetUint(f.Uint() + 1)
		case reflect.Pointer:
			p := reflect.New(f.Type().Elem())
			if !f.IsNil() {
				p.Elem().Set(f.Elem())
			}
			other(t, p.Elem().Field(0))
			f.Set(p)
		case reflect.Struct:
			other(t, f.Field(0))
		case reflect.Slice:
			list := reflect.MakeSlice(f.Type(), 1, 1)
			other(t, list.Index(0))
			f.Set(list)
		default:
			t.Fatalf("no other value of a %s is known", f.Type())
		}
	}
}

// checkEqual changes each field of a record in turn: equal must see it, from none to one as from one to another.
func checkEqual[T any](t *testing.T, equal func(a, b *T) bool) {
	t.Helper()
	for i := range reflect.TypeFor[T]().NumField() {
		field := reflect.TypeFor[T]().Field(i)
		if !field.IsExported() {
			continue
		}
		a, b := new(T), new(T)
		if !equal(a, b) {
			t.Errorf("two empty %T are not equal", a)
		}
		other(t, reflect.ValueOf(b).Elem().Field(i))
		if equal(a, b) || equal(b, a) {
			t.Errorf("%T without and with %s are equal", a, field.Name)
		}
		if !equal(b, copyOf(b)) {
			t.Errorf("%T with %s is not equal to its copy", a, field.Name)
		}
	}
}

func TestEqual(t *testing.T) {
	checkEqual(t, (*Workload).equal)
	checkEqual(t, (*Service).equal)
	checkEqual(t, (*LoadBalancer).equal)
	g := &Gateway{Port: 1}
	if a, b := (&Workload{Waypoint: g}), (&Workload{Waypoint: &Gateway{Port: 1}}); !a.equal(b) {
		t.Error("workloads with equal waypoints are not equal")
	}
	if a, b := (&Workload{Waypoint: g}), (&Workload{Waypoint: &Gateway{Port: 2}}); a.equal(b) {
		t.Error("workloads with different waypoints are equal")
	}
}

// Who sends all again wakes nobody, and makes nothing be made anew.
func TestUnchangedStays(t *testing.T) {
	s := NewStore(Config{})
	a, b, svc := pod("a", "10.0.0.1", web), pod("b", "10.0.0.2", web), service(web, "10.1.0.1")
	put(s, a, b, svc)
	list, changed := s.Endpoints(svc), s.LocalChanged()
	put(s, copyOf(a), copyOf(b), copyOf(svc))
	select {
	case <-changed:
		t.Error("LocalChanged is closed though nothing has changed")
	default:
	}
	if s.WorkloadByUID("a") != a || s.Service(web) != svc {
		t.Error("what was sent again in the same words took the place of the stored")
	}
	if again := s.Endpoints(svc); &again[0] != &list[0] {
		t.Error("the list of endpoints was made anew")
	}
	b2 := copyOf(b)
	b2.Status = Unhealthy
	put(s, copyOf(a), b2)
	if s.WorkloadByUID("a") != a || s.WorkloadByUID("b") != b2 || len(s.Endpoints(svc)) != 1 {
		t.Error("after a change of one of two, want the stored one and the new one")
	}
	// Of two words about one in a batch the last counts, also if it is the old one.
	put(s, pod("a", "10.0.0.9"), copyOf(a))
	wantWorkload(t, s, "10.0.0.1", "a")
	wantWorkload(t, s, "10.0.0.9", "")
	put(s, copyOf(a), pod("a", "10.0.0.9"))
	wantWorkload(t, s, "10.0.0.1", "")
	wantWorkload(t, s, "10.0.0.9", "a")
}

// One who is sent again after another took its address gets it back, as if it had changed.
func TestUnchangedWithSharedAddress(t *testing.T) {
	for name, first := range map[string]bool{"first": true, "last": false} {
		s := NewStore(Config{})
		a, b := pod("a", "10.0.0.1"), pod("b", "10.0.0.1")
		put(s, a)
		if first {
			put(s, copyOf(a), b)
			wantWorkload(t, s, "10.0.0.1", "b")
		} else {
			put(s, b, copyOf(a))
			wantWorkload(t, s, "10.0.0.1", "a")
		}
		put(s, copyOf(b), pod("c", "10.0.0.3"))
		if w := s.Workload("", ip("10.0.0.1")); w.UID != "b" {
			t.Errorf("%s: after b was sent again the address is that of %s, want b", name, w.UID)
		}
	}
}

// A batch does not change the caller's list.
func TestWithout(t *testing.T) {
	list := []int{1, 2, 3, 4}
	if got := without(list, func(n int) bool { return n%2 == 0 }); fmt.Sprint(got, list) != "[1 3] [1 2 3 4]" {
		t.Errorf("without even numbers = %v, and the list is %v", got, list)
	}
	if got := without(list, func(int) bool { return false }); &got[0] != &list[0] {
		t.Error("a list of which all remains was copied")
	}
}

// What changes elsewhere wakes nobody, unless it comes here or was here.
func TestLocalChanged(t *testing.T) {
	s := NewStore(Config{NodeName: "here"})
	at := func(uid, node string) *Workload {
		w := pod(uid, "10.0.0.1", web)
		w.Node = node
		return w
	}
	put(s, at("a", "elsewhere"), at("b", "here"))
	for _, tc := range []struct {
		name   string
		update Update
		want   bool
	}{
		{"another node's", Update{Workloads: []*Workload{at("c", "elsewhere")}}, false},
		{"a service", Update{Services: []*Service{service(web, "10.1.0.1")}}, false},
		{"another node's goes", Update{RemovedWorkloads: []string{"c"}}, false},
		{"it comes here", Update{Workloads: []*Workload{at("a", "here")}}, true},
		{"it leaves again", Update{Workloads: []*Workload{at("a", "elsewhere")}}, true},
		{"this node's goes", Update{RemovedWorkloads: []string{"b"}}, true},
	} {
		changed := s.LocalChanged()
		s.Apply(tc.update)
		got := false
		select {
		case <-changed:
			got = true
		default:
		}
		if got != tc.want {
			t.Errorf("%s: LocalChanged is closed: %v, want %v", tc.name, got, tc.want)
		}
	}
}
