package rbac

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"ztunnel/proxy/spiffe"
)

// matching reports whether a policy with these rules matches, by what it does
// to an otherwise unrestricted target; ALLOW and DENY must agree.
func matching(t *testing.T, c *Connection, rules ...Rule) bool {
	t.Helper()
	outcome := func(a Action) bool {
		s := NewSet(slog.New(slog.DiscardHandler), false)
		s.Replace([]*Policy{{Name: "p", Namespace: "ns", Scope: Namespace, Action: a, Rules: rules}})
		return s.Authorize(Target{Namespace: "ns"}, c).Allowed
	}
	allowed, notDenied := outcome(Allow), outcome(Deny)
	if allowed == notDenied {
		t.Errorf("allowed by ALLOW = %t, allowed by DENY = %t, want the opposite", allowed, notDenied)
	}
	return allowed
}

func one(m Match) Rule { return Rule{Clause{m}} }

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// client is an authenticated connection from 127.0.0.2 to 127.0.0.3:80.
func client() *Connection {
	return &Connection{
		Src: netip.MustParseAddrPort("127.0.0.2:1234"), Dst: netip.MustParseAddrPort("127.0.0.3:80"),
		Identity: spiffe.ID{TrustDomain: "td", Namespace: "ns1", ServiceAccount: "sa1"}, HasIdentity: true,
	}
}

// stranger is the same without an identity.
func stranger() *Connection {
	c := client()
	c.Identity, c.HasIdentity = spiffe.ID{}, false
	return c
}

func TestStructure(t *testing.T) {
	yes, no := Match{DestinationPorts: []uint16{80}}, Match{DestinationPorts: []uint16{81}}
	for _, test := range []struct {
		name  string
		rules []Rule
		want  bool
	}{
		{"no rules", nil, false},
		{"a rule without clauses", []Rule{{}}, true},
		{"a clause without matches", []Rule{{Clause{}}}, true},
		{"a match without values", []Rule{one(Match{})}, false},
		{"only matches without values", []Rule{{Clause{{}, {}}}}, false},
		{"a match without values beside one that matches", []Rule{{Clause{{}, yes}}}, true},
		{"one of two matches", []Rule{{Clause{no, yes}}}, true},
		{"none of two matches", []Rule{{Clause{no, no}}}, false},
		{"both clauses", []Rule{{Clause{yes}, Clause{yes}}}, true},
		{"one of two clauses", []Rule{{Clause{yes}, Clause{no}}}, false},
		{"a clause and one without matches", []Rule{{Clause{no}, Clause{}}}, false},
		{"a clause that matches and one without matches", []Rule{{Clause{yes}, Clause{}}}, true},
		{"a clause that matches and one of empty matches", []Rule{{Clause{yes}, Clause{{}}}}, false},
		{"one of two rules", []Rule{one(no), one(yes)}, true},
		{"none of two rules", []Rule{one(no), one(no)}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := matching(t, client(), test.rules...); got != test.want {
				t.Errorf("match = %t, want %t", got, test.want)
			}
		})
	}
}

func TestAttributes(t *testing.T) {
	str := func(k StringKind, v string) []StringMatch { return []StringMatch{{k, v}} }
	many := make([]netip.Prefix, 0, 64)
	for i := range 64 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 9}), 16+i%9), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, byte(i)}), 64))
	}
	withMany := append(slices.Clip(many), netip.MustParsePrefix("127.0.0.77/25"))
	for _, test := range []struct {
		name          string
		match         Match
		authenticated bool // does the client match
		anonymous     bool // does the stranger match
	}{
		{"principal", Match{Principals: str(Exact, "td/ns/ns1/sa/sa1")}, true, false},
		{"principal with its scheme", Match{Principals: str(Exact, "spiffe://td/ns/ns1/sa/sa1")}, false, false},
		{"principal of another domain", Match{Principals: str(Exact, "other/ns/ns1/sa/sa1")}, false, false},
		{"principal prefix", Match{Principals: str(Prefix, "td/ns/ns1/")}, true, false},
		{"principal too long a prefix", Match{Principals: str(Prefix, "td/ns/ns1/sa/sa1x")}, false, false},
		{"principal suffix", Match{Principals: str(Suffix, "/sa/sa1")}, true, false},
		{"principal other suffix", Match{Principals: str(Suffix, "/sa/sa2")}, false, false},
		{"principal empty prefix", Match{Principals: str(Prefix, "")}, true, false},
		{"principal presence", Match{Principals: str(Presence, "")}, true, false},
		{"principal in other case", Match{Principals: str(Exact, "TD/ns/ns1/sa/sa1")}, false, false},
		{"one of two principals", Match{Principals: []StringMatch{{Exact, "x"}, {Suffix, "sa1"}}}, true, false},
		{"not principal", Match{NotPrincipals: str(Exact, "td/ns/ns1/sa/sa1")}, false, true},
		{"not another principal", Match{NotPrincipals: str(Exact, "td/ns/ns1/sa/sa2")}, true, true},
		{"strict mutual TLS", Match{NotPrincipals: str(Presence, "")}, false, true},
		{"namespace", Match{Namespaces: str(Exact, "ns1")}, true, false},
		{"namespace presence", Match{Namespaces: str(Presence, "")}, true, false},
		{"namespace empty exact", Match{Namespaces: str(Exact, "")}, false, true},
		{"namespace empty prefix", Match{Namespaces: str(Prefix, "")}, true, true},
		{"namespace empty suffix", Match{Namespaces: str(Suffix, "")}, true, true},
		{"not namespace", Match{NotNamespaces: str(Exact, "ns1")}, false, true},
		{"not any namespace", Match{NotNamespaces: str(Presence, "")}, false, true},
		{"service account", Match{ServiceAccounts: []ServiceAccountMatch{{"x", "sa1"}, {"ns1", "sa1"}}}, true, false},
		{"service account elsewhere", Match{ServiceAccounts: []ServiceAccountMatch{{"ns2", "sa1"}}}, false, false},
		{"nameless service account", Match{ServiceAccounts: []ServiceAccountMatch{{"", ""}}}, false, false},
		{"not service account", Match{NotServiceAccounts: []ServiceAccountMatch{{"ns1", "sa1"}}}, false, true},
		{"not nameless service account", Match{NotServiceAccounts: []ServiceAccountMatch{{"", ""}}}, true, true},
		{"source", Match{SourceIPs: prefixes("127.0.0.1/24")}, true, true}, // host bits
		{"source elsewhere", Match{SourceIPs: prefixes("127.0.0.3/32")}, false, false},
		{"source of the other family", Match{SourceIPs: prefixes("::/0")}, false, false},
		{"not source", Match{NotSourceIPs: prefixes("127.0.0.0/8")}, false, false},
		{"not source elsewhere", Match{NotSourceIPs: prefixes("::/0")}, true, true},
		{"long list with the source", Match{SourceIPs: withMany}, true, true},
		{"long list without the source", Match{SourceIPs: many}, false, false},
		{"not in a long list", Match{NotSourceIPs: many}, true, true},
		{"destination", Match{DestinationIPs: prefixes("127.0.0.3/32")}, true, true},
		{"destination is not the source", Match{DestinationIPs: prefixes("127.0.0.2/32")}, false, false},
		{"not destination", Match{NotDestinationIPs: prefixes("127.0.0.3/32")}, false, false},
		{"port", Match{DestinationPorts: []uint16{1, 80}}, true, true},
		{"port of the source", Match{DestinationPorts: []uint16{1234}}, false, false},
		{"not port", Match{NotDestinationPorts: []uint16{80}}, false, false},
		{"not another port", Match{NotDestinationPorts: []uint16{81}}, true, true},
		{"all kinds together", Match{Principals: str(Presence, ""), Namespaces: str(Exact, "ns1"), SourceIPs: prefixes("127.0.0.2/32"), NotDestinationPorts: []uint16{81}}, true, false},
		{"all but one", Match{Principals: str(Presence, ""), Namespaces: str(Exact, "ns1"), DestinationPorts: []uint16{81}}, false, false},
		{"value and exception", Match{Namespaces: str(Presence, ""), NotPrincipals: str(Suffix, "sa1")}, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := matching(t, client(), one(test.match)); got != test.authenticated {
				t.Errorf("match of an authenticated peer = %t, want %t", got, test.authenticated)
			}
			if got := matching(t, stranger(), one(test.match)); got != test.anonymous {
				t.Errorf("match of an anonymous peer = %t, want %t", got, test.anonymous)
			}
		})
	}
}

// The network of the destination is not looked at, a zone does not keep a
// range from matching, a long identity is compared in full.
func TestOddConnections(t *testing.T) {
	c := client()
	c.DstNetwork = "elsewhere"
	if !matching(t, c, one(Match{DestinationIPs: prefixes("127.0.0.3/32")})) {
		t.Error("match of a destination on another network = false, want true")
	}
	c.Src = netip.MustParseAddrPort("[fe80::1%eth0]:1")
	if !matching(t, c, one(Match{SourceIPs: prefixes("fe80::/10")})) {
		t.Error("match of a source with a zone = false, want true")
	}
	c.Identity.ServiceAccount = strings.Repeat("x", 2*principalBuffer) + "end"
	if !matching(t, c, one(Match{Principals: []StringMatch{{Suffix, "xend"}}})) {
		t.Error("match of the end of a long identity = false, want true")
	}
}

func TestStringKinds(t *testing.T) {
	for _, test := range []struct {
		kind         StringKind
		value, input string
		want         bool
	}{
		{Exact, "foo", "foo", true},
		{Exact, "foo", "Foo", false},
		{Exact, "", "", true},
		{Prefix, "foo", "foobar", true},
		{Prefix, "foo", "foo", true},
		{Prefix, "foo", "notfoo", false},
		{Prefix, "foo", "", false},
		{Suffix, "foo", "notfoo", true},
		{Suffix, "foo", "foo", true},
		{Suffix, "foo", "foobar", false},
		{Suffix, "foo", "", false},
		{Presence, "", "x", true},
		{Presence, "", "", false},
	} {
		s := newStringSet([]StringMatch{{test.kind, test.value}})
		if got := s.matchString(test.input); got != test.want {
			t.Errorf("%s %q of %q = %t, want %t", test.kind, test.value, test.input, got, test.want)
		}
		if got := s.matchBytes([]byte(test.input)); got != test.want {
			t.Errorf("%s %q of the bytes %q = %t, want %t", test.kind, test.value, test.input, got, test.want)
		}
	}
}

// A long list of ranges answers as its members would one by one.
func TestPrefixSetProperty(t *testing.T) {
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		if rapid.Bool().Draw(t, "v4") {
			return netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 3).Draw(t, "b")), byte(rapid.IntRange(0, 255).Draw(t, "c"))})
		}
		return netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(rapid.IntRange(0, 3).Draw(t, "b")), 15: rapid.Byte().Draw(t, "c")})
	})
	rapid.Check(t, func(t *rapid.T) {
		var list []netip.Prefix
		for _, a := range rapid.SliceOfN(addr, linearPrefixes+1, 60).Draw(t, "list") {
			list = append(list, netip.PrefixFrom(a, a.BitLen()-rapid.IntRange(0, 10).Draw(t, "host bits")))
		}
		s, a := newPrefixSet(list), addr.Draw(t, "address")
		want := false
		for _, p := range list {
			want = want || p.Contains(a)
		}
		if got := s.contains(a); got != want {
			t.Fatalf("contains(%s) = %t, want %t, of %v", a, got, want, list)
		}
	})
}

func TestPrincipals(t *testing.T) {
	p, err := ParsePrincipals([]string{"td/ns/a/sa/b", "td/ns/team-*", "*/sa/prometheus"})
	if err != nil {
		t.Fatal(err)
	}
	for principal, want := range map[string]bool{
		"td/ns/a/sa/b": true, "td/ns/a/sa/bc": false, "td/ns/team-x/sa/y": true, "td/ns/m/sa/prometheus": true,
		"spiffe://td/ns/a/sa/b": false, "": false,
	} {
		if got := p.Match(principal); got != want {
			t.Errorf("Match(%q) = %t, want %t", principal, got, want)
		}
	}
	all, err := ParsePrincipals([]string{"*"})
	if err != nil || !all.Match("x") || all.Match("") || all.IsEmpty() {
		t.Errorf("* matches somebody = %t, nobody = %t, %v, want true, false, nil", all.Match("x"), all.Match(""), err)
	}
	if none := (Principals{}); none.Match("x") || !none.IsEmpty() {
		t.Error("the zero Principals match somebody")
	}
	for _, bad := range []string{"", "spiffe://td/ns/a/sa/b", "a*b", "*a*", "**"} {
		if _, err := ParsePrincipals([]string{"good", bad}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("ParsePrincipals(%q) = %v, want an error that names it", bad, err)
		}
	}
}
