package route

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"ztunnel/proxy/workload"
)

// Where a destination is does not decide how it is reached: its own node is no
// exception.
func TestPick_NodesPlayNoRole(t *testing.T) {
	node := func(name string) func(*workload.Workload) {
		return func(w *workload.Workload) { w.Node = name }
	}
	src := source(node("here"))
	for _, where := range []string{"here", "there"} {
		s := world(t, src, pod("plain", at("127.0.0.2"), plain, node(where)), pod("captured", at("127.0.0.3"), node(where)))
		for target, want := range map[string]string{
			"127.0.0.2:80": "TCP 127.0.0.2:80 workload=plain",
			"127.0.0.3:80": "HBONE 127.0.0.3:15008 authority=127.0.0.3:80 workload=captured expected=captured",
		} {
			got := outcome(Pick(s, &Request{Source: src, Client: netip.MustParseAddrPort("127.0.0.1:1"), Target: netip.MustParseAddrPort(target)}, first{}))
			if got != want {
				t.Errorf("Pick(%s) on node %s = %s, want %s", target, where, got, want)
			}
		}
	}
}

// Of a service's endpoints inside and outside of the mesh each connection goes
// to one, over HBONE or in plain text as that one needs it, and all get some.
func TestPick_MixedEndpoints(t *testing.T) {
	src := source()
	s := world(t, src, service("s", "/10.0.0.1"), pod("plain", at("127.0.0.2"), plain, in("s")), pod("captured", at("127.0.0.3"), in("s")))
	counts := map[string]int{}
	for range 200 { // one of two is missed by chance once in 2^199
		d, err := Pick(s, &Request{Source: src, Target: netip.MustParseAddrPort("10.0.0.1:80")}, Random{})
		got := outcome(d, err)
		counts[fmt.Sprint(strings.Fields(got)[:2])]++
		if d.Service == nil || d.Service.Hostname != "s" {
			t.Fatalf("Pick = %s, want the service with it", got)
		}
	}
	if len(counts) != 2 || counts["[TCP 127.0.0.2:8080]"] == 0 || counts["[HBONE 127.0.0.3:15008]"] == 0 {
		t.Errorf("chosen: %v, want both endpoints, each in its own way", counts)
	}
}
