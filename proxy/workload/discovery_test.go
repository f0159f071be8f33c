package workload

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ztunnel/proxy/spiffe"
)

func TestWithoutLocal(t *testing.T) {
	id := func(td, account string) spiffe.ID {
		return spiffe.ID{TrustDomain: td, Namespace: "shop", ServiceAccount: account}
	}
	s := NewStore(Config{NodeName: "here"})
	s.Apply(Update{Workloads: []*Workload{
		{UID: "a", Name: "a", Namespace: "shop", ServiceAccount: "web", TrustDomain: "td", Node: "here"},
		{UID: "b", Name: "b", Namespace: "shop", ServiceAccount: "far", TrustDomain: "td", Node: "there"},
	}})
	ids := []spiffe.ID{id("td", "web"), id("other", "web"), id("td", "far"), id("td", "gone"), id("td", "far")}
	if diff := cmp.Diff([]spiffe.ID{id("td", "far"), id("td", "gone")}, s.WithoutLocal(ids)); diff != "" {
		t.Errorf("WithoutLocal (-want +got):\n%s", diff)
	}
	if got := s.WithoutLocal(nil); got != nil {
		t.Errorf("WithoutLocal of nothing = %v", got)
	}
}
