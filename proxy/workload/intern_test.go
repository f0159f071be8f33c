package workload

import (
	"fmt"
	"reflect"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	api "ztunnel/proxy/api/workloadapi"
)

// ports makes a list of pairs.
func ports(numbers ...uint32) *api.PortList {
	l := &api.PortList{}
	for i := 0; i < len(numbers); i += 2 {
		l.Ports = append(l.Ports, &api.Port{ServicePort: numbers[i], TargetPort: numbers[i+1]})
	}
	return l
}

func mustServiceMap(tb testing.TB, in *Interner, pb map[string]*api.PortList) map[NamespacedHostname]PortMap {
	tb.Helper()
	m, err := in.serviceMap(pb)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func TestInterner_ServiceMap(t *testing.T) {
	web := NamespacedHostname{"shop", "web"}
	for name, in := range map[string]*Interner{"shared": NewInterner(), "none": nil} {
		pb := map[string]*api.PortList{"shop/web": ports(80, 8080, 443, 8443), "a/b": ports()}
		want := map[NamespacedHostname]PortMap{web: {80: 8080, 443: 8443}, {"a", "b"}: {}}
		one, two := mustServiceMap(t, in, pb), mustServiceMap(t, in, pb)
		if d := cmp.Diff(want, one); d != "" {
			t.Errorf("%s: serviceMap differs (-want +got):\n%s", name, d)
		}
		if same := reflect.ValueOf(one).Pointer() == reflect.ValueOf(two).Pointer(); same != (in != nil) {
			t.Errorf("%s: equal maps of services are the same = %t, want %t", name, same, in != nil)
		}
		if m := mustServiceMap(t, in, nil); m != nil {
			t.Errorf("%s: serviceMap of none = %v, want nil", name, m)
		}
		for range 2 { // what is refused is not remembered
			if m, err := in.serviceMap(map[string]*api.PortList{"x": ports()}); err == nil {
				t.Errorf("%s: serviceMap of a name without namespace = %v, want an error", name, m)
			}
		}
	}
	in := NewInterner()
	// Lists of which the bytes in a row are the same do not mean the same.
	one := mustServiceMap(t, in, map[string]*api.PortList{"/h": ports(0x0361, 0x2f62)})
	two := mustServiceMap(t, in, map[string]*api.PortList{"/h": ports(), "a/b": ports()})
	if len(one) != 1 || len(two) != 2 {
		t.Errorf("serviceMap = %v and %v, want one and two services", one, two)
	}
	// Of two entries for one port the last counts.
	if m := in.portMap(ports(80, 1, 80, 2).Ports); m[80] != 2 {
		t.Errorf("portMap of 80 twice = %v, want the last", m)
	}
	if m := in.portMap(ports(80, 2, 80, 1).Ports); m[80] != 1 {
		t.Errorf("portMap of 80 twice = %v, want the last", m)
	}
}

func TestInterner_Gateway(t *testing.T) {
	in := NewInterner()
	g := Gateway{Hostname: NamespacedHostname{"shop", "waypoint"}, Port: 15008}
	if a, b := in.gateway(g), in.gateway(g); a != b || *a != g {
		t.Errorf("gateway = %p %v and %p %v, want the same %v", a, a, b, b, g)
	}
	other := g
	other.Port++
	if a := in.gateway(other); *a != other {
		t.Errorf("gateway of another port = %v, want %v", a, other)
	}
	if a, b := (*Interner)(nil).gateway(g), (*Interner)(nil).gateway(g); a == b || *a != g {
		t.Errorf("gateway without an interner = %p and %p, want two", a, b)
	}
}

// Whatever comes, an interner stays small, and what is asked for all the time stays shared.
func TestInterner_Forgets(t *testing.T) {
	in := NewInterner()
	first := func() (*byte, *Gateway, uintptr, uintptr) {
		list := ports(80, 8080)
		m := mustServiceMap(t, in, map[string]*api.PortList{"shop/web": list})
		return unsafe.StringData(in.string(string([]byte("always")))), in.gateway(Gateway{Port: 1}),
			reflect.ValueOf(in.portMap(list.Ports)).Pointer(), reflect.ValueOf(m).Pointer()
	}
	s, g, p, m := first()
	for i := range 3 * internLimit {
		n := uint32(i)
		in.string(fmt.Sprint(i))
		in.gateway(Gateway{Hostname: NamespacedHostname{Hostname: fmt.Sprint(i)}})
		in.portMap(ports(n>>16, n&0xffff, 1, 1).Ports)
		mustServiceMap(t, in, map[string]*api.PortList{"shop/web": ports(n>>16, n&0xffff, 1, 1)})
		if i%(internLimit/4) == 0 {
			if s2, g2, p2, m2 := first(); s2 != s || g2 != g || p2 != p || m2 != m {
				t.Fatalf("after %d values what is used all the time is made anew", i)
			}
		}
	}
	for name, n := range map[string]int{"strings": in.strings.len(), "gateways": in.gateways.len(), "ports": in.ports.len(), "services": in.services.len()} {
		if n > 2*internLimit || n <= internLimit {
			t.Errorf("the interner remembers %d %s, want up to two generations of %d", n, name, internLimit)
		}
	}
}
