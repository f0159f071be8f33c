package rbac

import (
	"fmt"
	"log/slog"
	"testing"
)

// largeMesh is a thousand policies, of namespaces and of workloads, of which three apply to the target: a DENY and an ALLOW of
// its own, and an ALLOW of its namespace, by which the client is let in.
func largeMesh() (*Set, Target) {
	var list []*Policy
	target := Target{Namespace: "ns7"}
	for i := range 1000 {
		ns := fmt.Sprint("ns", i%100)
		match := Match{Principals: []StringMatch{{Exact, fmt.Sprintf("td/ns/%s/sa/x%d", ns, i)}}, DestinationPorts: []uint16{80, 443}}
		p := policy(fmt.Sprint("p", i), WorkloadSelector, Action(i/100%2), one(match))
		p.Namespace = ns
		switch {
		case i == 7:
			p.Scope = Namespace
			p.Action = Allow
			p.Rules = []Rule{one(Match{Principals: []StringMatch{{Prefix, "td/ns/ns1/"}}})}
		case i == 107, i == 207:
			target.Policies = append(target.Policies, p.Key())
		case i < 100:
			p.Scope = Namespace
		}
		list = append(list, p)
	}
	s := NewSet(slog.New(slog.DiscardHandler), false)
	s.Replace(list)
	return s, target
}

func TestLargeMesh(t *testing.T) {
	s, target := largeMesh()
	c := client()
	if d := s.Authorize(target, c); !d.Allowed || d.Policy != "ns7/p7" || !d.Explicit {
		t.Errorf("Authorize = %+v, want allowed by ns7/p7", d)
	}
	if n := testing.AllocsPerRun(100, func() { s.Authorize(target, c) }); n > 0 {
		t.Errorf("a decision makes %v allocations, want none", n)
	}
}

func BenchmarkAuthorizeLargeMesh(b *testing.B) {
	s, target := largeMesh()
	c := client()
	b.ReportAllocs()
	for b.Loop() {
		if d := s.Authorize(target, c); !d.Allowed {
			b.Fatal(d.Err)
		}
	}
}

// One policy of a thousand changes.
func BenchmarkApplyLargeMesh(b *testing.B) {
	s, _ := largeMesh()
	p := s.Policies()[500]
	b.ReportAllocs()
	for b.Loop() {
		s.Apply([]*Policy{p}, nil)
	}
}
