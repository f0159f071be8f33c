package workload

import (
	"fmt"
	"net/netip"
	"testing"

	api "ztunnel/proxy/api/workloadapi"
)

// Addresses of four and of sixteen bytes are taken as they are.
func TestAddressesOfBothLengths(t *testing.T) {
	for _, want := range []string{"0.0.0.0", "127.0.0.1", "255.255.255.255", "::", "::1", "2001:db8::1"} {
		b := netip.MustParseAddr(want).AsSlice()
		w, err := WorkloadFromProto(&api.Workload{Uid: "u", Addresses: [][]byte{b}}, nil)
		if err != nil || len(w.Addrs) != 1 || w.Addrs[0].String() != want {
			t.Errorf("a workload at %d bytes of %s: %v, %v, want that address", len(b), want, w, err)
		}
		s, err := ServiceFromProto(&api.Service{Addresses: []*api.NetworkAddress{{Address: b}}}, nil)
		if err != nil || len(s.VIPs) != 1 || s.VIPs[0].Addr.String() != want {
			t.Errorf("a service at %d bytes of %s: %v, %v, want that address", len(b), want, s, err)
		}
	}
}

// A key of staged endpoints is there as long as one of them, and no longer; nothing but an endpoint makes one.
func TestStagedKeys(t *testing.T) {
	s := NewStore(Config{})
	wantKeys := func(when string, want int) {
		t.Helper()
		if got := len(s.StagedEndpoints()); got != want {
			t.Errorf("%s: StagedEndpoints has %d keys, want %d", when, got, want)
		}
		if got := len(s.ix.services); got != want {
			t.Errorf("%s: the table of services has %d keys, want %d", when, got, want)
		}
	}
	put(s, pod("a", "10.0.0.1", web), pod("b", "10.0.0.2", web))
	wantKeys("two endpoints", 1)
	s.Apply(Update{Removed: []string{"a"}})
	wantKeys("one of two removed", 1)
	s.Apply(Update{Removed: []string{"b"}})
	wantKeys("both removed", 0)
	s.Apply(Update{Removed: []string{"a", web.String()}, RemovedServices: []NamespacedHostname{web}})
	wantKeys("removals of what is not there", 0)
	put(s, pod("a", "10.0.0.1"))
	wantKeys("an endpoint of nothing", 0)
}

// Of two services of different namespaces at one address either goes without the other.
func TestSharedAddressOfTwoNamespaces(t *testing.T) {
	a, b := NamespacedHostname{"ns-a", "h"}, NamespacedHostname{"ns-b", "h"}
	for gone, stays := range map[NamespacedHostname]NamespacedHostname{a: b, b: a} {
		s := NewStore(Config{})
		put(s, service(a, "10.1.0.1"), service(b, "10.1.0.1"))
		s.Apply(Update{Removed: []string{gone.String()}})
		for _, client := range []string{"ns-a", "ns-b", "ns-c", ""} {
			if svc := s.ServiceByVIP("", ip("10.1.0.1"), client, client != ""); svc == nil || svc.Key() != stays {
				t.Errorf("ServiceByVIP for %q after the removal of %s = %v, want %s", client, gone, svc, stays)
			}
			if svc := s.ServiceByHostname("h", client, client != ""); svc == nil || svc.Key() != stays {
				t.Errorf("ServiceByHostname for %q after the removal of %s = %v, want %s", client, gone, svc, stays)
			}
		}
	}
}

// Who has no namespace sees the ranges of private services too.
func TestPrivateRangeWithoutClient(t *testing.T) {
	s := NewStore(Config{})
	put(s, private(service(web, "10.1.0.0/24")))
	if svc := s.ServiceByVIP("", ip("10.1.0.5"), "", false); svc == nil || svc.Key() != web {
		t.Errorf("ServiceByVIP without a client = %v, want %s", svc, web)
	}
}

// The list of endpoints is made once after a batch, however many endpoints that had, and not again by later readers.
func TestOneListAfterABatch(t *testing.T) {
	s := NewStore(Config{})
	u := Update{Services: []*Service{service(web)}}
	for i := range 50 {
		u.Workloads = append(u.Workloads, pod(fmt.Sprint("w", i), fmt.Sprintf("10.0.0.%d", i), web))
	}
	s.Apply(u)
	first := s.Endpoints(s.Service(web))
	if again := s.Endpoints(s.Service(web)); len(first) != 50 || &first[0] != &again[0] {
		t.Errorf("Endpoints has %d and is made for each reader, want 50, made once", len(first))
	}
	put(s, pod("other", "10.0.1.1", NamespacedHostname{"shop", "other"}))
	if again := s.Endpoints(s.Service(web)); &first[0] != &again[0] {
		t.Error("Endpoints is made anew after a change of another service")
	}
}
