package rbac

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"ztunnel/proxy/api/securityapi"
)

func exact(s string) *securityapi.StringMatch {
	return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Exact{Exact: s}}
}

func wire(action securityapi.Action, matches ...*securityapi.Match) *securityapi.Authorization {
	return &securityapi.Authorization{
		Name: "p", Namespace: "ns", Scope: securityapi.Scope_NAMESPACE, Action: action,
		Rules: []*securityapi.Rule{{Clauses: []*securityapi.Clause{{Matches: matches}}}},
	}
}

func TestFromProto(t *testing.T) {
	in := &securityapi.Authorization{
		Name: "p", Namespace: "ns", Scope: securityapi.Scope_WORKLOAD_SELECTOR, Action: securityapi.Action_DENY, DryRun: true,
		Rules: []*securityapi.Rule{{}, {Clauses: []*securityapi.Clause{{}, {Matches: []*securityapi.Match{{
			Namespaces:          []*securityapi.StringMatch{exact("a")},
			NotNamespaces:       []*securityapi.StringMatch{{MatchType: &securityapi.StringMatch_Prefix{Prefix: "b"}}},
			Principals:          []*securityapi.StringMatch{{MatchType: &securityapi.StringMatch_Suffix{Suffix: "c"}}},
			NotPrincipals:       []*securityapi.StringMatch{{MatchType: &securityapi.StringMatch_Presence{Presence: &emptypb.Empty{}}}},
			SourceIps:           []*securityapi.Address{{Address: []byte{10, 0, 0, 1}, Length: 8}},
			NotSourceIps:        []*securityapi.Address{{Address: make([]byte, 16), Length: 128}},
			DestinationIps:      []*securityapi.Address{{Address: []byte{1, 1, 1, 1}, Length: 32}},
			NotDestinationIps:   []*securityapi.Address{{Address: []byte{0, 0, 0, 0}}},
			DestinationPorts:    []uint32{0, 65535},
			NotDestinationPorts: []uint32{81},
			ServiceAccounts:     []*securityapi.ServiceAccountMatch{{Namespace: "d", ServiceAccount: "e"}},
			NotServiceAccounts:  []*securityapi.ServiceAccountMatch{{Namespace: "f", ServiceAccount: "g"}},
			Extensions:          []*securityapi.Extension{{Name: "ignored"}},
		}}}}}},
	}
	want := &Policy{Name: "p", Namespace: "ns", Scope: WorkloadSelector, Action: Deny, DryRun: true, Rules: []Rule{{}, {{}, {{
		Namespaces: []StringMatch{{Exact, "a"}}, NotNamespaces: []StringMatch{{Prefix, "b"}},
		Principals: []StringMatch{{Suffix, "c"}}, NotPrincipals: []StringMatch{{Presence, ""}},
		ServiceAccounts: []ServiceAccountMatch{{"d", "e"}}, NotServiceAccounts: []ServiceAccountMatch{{"f", "g"}},
		SourceIPs: prefixes("10.0.0.1/8"), NotSourceIPs: prefixes("::/128"),
		DestinationIPs: prefixes("1.1.1.1/32"), NotDestinationIPs: prefixes("0.0.0.0/0"),
		DestinationPorts: []uint16{0, 65535}, NotDestinationPorts: []uint16{81},
	}}}}}
	got, err := FromProto(in)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("FromProto (-want +got):\n%s", diff)
	}
}

func TestFromProtoRefuses(t *testing.T) {
	for _, in := range []*securityapi.Authorization{
		{Name: "p", Namespace: "ns", Scope: 99},
		{Name: "p", Namespace: "ns", Action: 99},
	} {
		p, err := FromProto(in)
		if p != nil || errorText(err) != "ns/p: decode error: unknown enumeration value 99" {
			t.Errorf("FromProto = %v, %v, want no policy and the text of the reference", p, err)
		}
	}
}

// An element that is not understood lets nobody in and keeps nobody from being
// denied.
func TestBrokenElements(t *testing.T) {
	nobody := &securityapi.StringMatch{}
	short := &securityapi.Address{Address: []byte{127}, Length: 8}
	long := &securityapi.Address{Address: []byte{127, 0, 0, 2}, Length: 33}
	me := exact("td/ns/ns1/sa/sa1")
	for _, test := range []struct {
		name   string
		match  *securityapi.Match
		denies bool // as a DENY policy
	}{
		{"principal", &securityapi.Match{Principals: []*securityapi.StringMatch{nobody}}, true},
		{"principal beside mine", &securityapi.Match{Principals: []*securityapi.StringMatch{me, nobody}}, true},
		{"principal beside another", &securityapi.Match{Principals: []*securityapi.StringMatch{exact("x"), nobody}}, true},
		{"principal for the port", &securityapi.Match{Principals: []*securityapi.StringMatch{nobody}, DestinationPorts: []uint32{80}}, true},
		{"principal for another port", &securityapi.Match{Principals: []*securityapi.StringMatch{nobody}, DestinationPorts: []uint32{81}}, false},
		{"not principal", &securityapi.Match{NotPrincipals: []*securityapi.StringMatch{nobody}}, true},
		{"not principal beside mine", &securityapi.Match{NotPrincipals: []*securityapi.StringMatch{nobody, me}}, false},
		{"namespace", &securityapi.Match{Namespaces: []*securityapi.StringMatch{nobody}}, true},
		{"not namespace", &securityapi.Match{NotNamespaces: []*securityapi.StringMatch{nobody}}, true},
		{"source of a wrong length", &securityapi.Match{SourceIps: []*securityapi.Address{short}}, true},
		{"source with a long prefix", &securityapi.Match{SourceIps: []*securityapi.Address{long}}, true},
		{"not source", &securityapi.Match{NotSourceIps: []*securityapi.Address{long}}, true},
		{"destination", &securityapi.Match{DestinationIps: []*securityapi.Address{short}}, true},
		{"not destination", &securityapi.Match{NotDestinationIps: []*securityapi.Address{short}}, true},
		{"port that wraps around", &securityapi.Match{DestinationPorts: []uint32{80 + 1<<16}}, true},
		{"not port that wraps around", &securityapi.Match{NotDestinationPorts: []uint32{80 + 1<<16}}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, action := range []securityapi.Action{securityapi.Action_ALLOW, securityapi.Action_DENY} {
				p, err := FromProto(wire(action, test.match))
				var broken *BrokenError
				if p == nil || !errors.As(err, &broken) || len(broken.Elements) != 1 || !strings.HasPrefix(err.Error(), "ns/p: ") {
					t.Fatalf("FromProto = %v, %v, want a policy and what is broken", p, err)
				}
				s := NewSet(slog.New(slog.DiscardHandler), false)
				s.Replace([]*Policy{p})
				want := action == securityapi.Action_DENY && !test.denies
				if got := s.Authorize(Target{Namespace: "ns"}, client()); got.Allowed != want {
					t.Errorf("%s: allowed = %t, want %t", p.Action, got.Allowed, want)
				}
			}
		})
	}
}

// A broken element costs its whole rule, but no other rule, and the error
// stays short.
func TestBrokenRuleAmongOthers(t *testing.T) {
	in := wire(securityapi.Action_ALLOW, &securityapi.Match{DestinationPorts: []uint32{80}}, &securityapi.Match{DestinationPorts: []uint32{1 << 20}})
	p, err := FromProto(in)
	if err == nil {
		t.Fatal("FromProto = nil, want an error")
	}
	s := NewSet(slog.New(slog.DiscardHandler), false)
	s.Replace([]*Policy{p})
	if s.Authorize(Target{Namespace: "ns"}, client()).Allowed {
		t.Error("allowed by another match of a rule with a broken element, want denied")
	}
	in.Rules = append(in.Rules, wire(securityapi.Action_ALLOW, &securityapi.Match{DestinationPorts: []uint32{80}}).Rules...)
	for range 20 {
		in.Rules[0].Clauses = append(in.Rules[0].Clauses, proto.CloneOf(in.Rules[0].Clauses[0]))
	}
	p, err = FromProto(in)
	if !strings.HasSuffix(errorText(err), "; and 13 more") {
		t.Errorf("FromProto = %v, want 13 of 21 broken elements only counted", err)
	}
	s.Replace([]*Policy{p})
	if !s.Authorize(Target{Namespace: "ns"}, client()).Allowed {
		t.Error("denied although another rule is sound, want allowed")
	}
}
