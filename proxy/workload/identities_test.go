package workload

import (
	"slices"
	"testing"

	"ztunnel/proxy/spiffe"
)

func TestIdentities(t *testing.T) {
	w := pod("a", "10.0.0.1")
	own, one, two := w.Identity(), spiffe.ID{TrustDomain: "td", Namespace: "n", ServiceAccount: "one"}, spiffe.ID{TrustDomain: "td", Namespace: "n", ServiceAccount: "two"}
	lists := []struct{ sans, want []spiffe.ID }{
		{nil, []spiffe.ID{own}},
		{[]spiffe.ID{one}, []spiffe.ID{one, own}},
		{[]spiffe.ID{two}, []spiffe.ID{two, own}},
		{make([]spiffe.ID, 0, 9), []spiffe.ID{own}},
		{[]spiffe.ID{one, own, two}, []spiffe.ID{one, own, two}},
		{append(make([]spiffe.ID, 0, 9), one, two), []spiffe.ID{one, two, own}}, // nothing is written behind it
	}
	for range 2 { // by turns, as for several services
		for _, l := range lists {
			for range 2 {
				if got := w.Identities(l.sans); !slices.Equal(got, l.want) {
					t.Errorf("Identities(%v) = %v, want %v", l.sans, got, l.want)
				}
			}
		}
	}
	sans := lists[1].sans
	w.Identities(sans)
	if n := testing.AllocsPerRun(100, func() { w.Identities(sans) }); n > 0 {
		t.Errorf("asking again makes %v allocations, want none", n)
	}
}
