package route

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"ztunnel/proxy/workload"
)

// An endpoint without an address of the service's families cannot be reached.
func TestFamilyThatTheEndpointLacks(t *testing.T) {
	src := source()
	s := world(t, src, service("s", "/10.0.0.1", families(workload.FamiliesIPv4)), pod("w", at("ff06::2"), plain, in("s")))
	d, err := Pick(s, &Request{Source: src, Target: netip.MustParseAddrPort("10.0.0.1:80")}, first{})
	if want := "no_route: no valid routing destination for workload: Workload{w with uid w (TCP)}"; outcome(d, err) != want {
		t.Errorf("Pick = %s, want %s", outcome(d, err), want)
	}
}

// Endpoints of a service with a range serve it from when they arrive, also if that is long after the service.
func TestRangeWithLateEndpoints(t *testing.T) {
	src := source()
	s := world(t, src, service("s", "", cidr("10.0.0.0/16")))
	r := &Request{Source: src, Target: netip.MustParseAddrPort("10.0.7.7:80")}
	for i := range 40 { // few and many
		d, err := Pick(s, r, last{})
		want := "no_healthy_upstream: no healthy upstream: 10.0.7.7:80"
		if i > 0 {
			want = "TCP 127.0.0.2:8080 service=s"
		}
		if got := outcome(d, err); strings.ReplaceAll(got, fmt.Sprintf(" workload=w%d", i-1), "") != want {
			t.Fatalf("Pick with %d endpoints = %s, want %s", i, got, want)
		}
		w := pod(fmt.Sprint("w", i), at("127.0.0.2"), plain, in("s"))
		w.Capacity = 1
		s.Apply(workload.Update{Workloads: []*workload.Workload{w}})
	}
}
