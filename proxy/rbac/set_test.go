package rbac

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ztunnel/proxy/spiffe"
)

// recorded returns a set and what it logs: message and policy by line.
func recorded(level slog.Level, info bool) (*Set, func() []string) {
	var buf bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&buf, &slog.HandlerOptions{Level: level}))
	return NewSet(log, info), func() (lines []string) {
		for l := range strings.SplitSeq(strings.TrimSpace(buf.String()), "\n") {
			var line struct{ Level, Msg, Policy string }
			if json.Unmarshal([]byte(l), &line) == nil {
				lines = append(lines, strings.TrimSpace(line.Level+" "+line.Msg+" "+line.Policy))
			}
		}
		buf.Reset()
		return lines
	}
}

func policy(name string, scope Scope, a Action, rules ...Rule) *Policy {
	return &Policy{Name: name, Namespace: "ns1", Scope: scope, Action: a, Rules: rules}
}

func dry(p *Policy) *Policy { p.DryRun = true; return p }

func TestAuthorize(t *testing.T) {
	all, none := Rule{}, one(Match{DestinationPorts: []uint16{1}})
	const notAllowed = "connection closed due to policy rejection: allow policies exist, but none allowed"
	for _, test := range []struct {
		name     string
		policies []*Policy
		target   Target
		want     Decision // without Err
		err      string
		logs     []string
	}{
		{
			name: "nothing applies", target: Target{Namespace: "ns1"},
			want: Decision{Allowed: true}, logs: []string{"DEBUG no allow policies, allow"},
		},
		{
			name: "another namespace", policies: []*Policy{policy("deny", Namespace, Deny, all)}, target: Target{Namespace: "ns2"},
			want: Decision{Allowed: true}, logs: []string{"DEBUG no allow policies, allow"},
		},
		{
			name: "allow", policies: []*Policy{policy("b", Namespace, Allow, all), policy("a", Namespace, Allow, none), policy("c", Namespace, Allow, all)}, target: Target{Namespace: "ns1"},
			want: Decision{Allowed: true, Policy: "ns1/b", Explicit: true}, logs: []string{"DEBUG allow policy match ns1/b"},
		},
		{
			name: "not allowed", policies: []*Policy{policy("a", Namespace, Allow, none)}, target: Target{Namespace: "ns1"},
			err: notAllowed, logs: []string{"DEBUG no allow policies matched"},
		},
		{
			name: "deny wins", policies: []*Policy{policy("a", Namespace, Allow, all), policy("z", Global, Deny, all), policy("y", Namespace, Deny, all)}, target: Target{Namespace: "ns1"},
			want: Decision{Policy: "ns1/y"}, err: "connection closed due to policy rejection: explicitly denied by: ns1/y", logs: []string{"DEBUG deny policy match ns1/y"},
		},
		{
			name: "global", policies: []*Policy{policy("g", Global, Deny, all)}, target: Target{Namespace: "ns2"},
			want: Decision{Policy: "ns1/g"}, err: "connection closed due to policy rejection: explicitly denied by: ns1/g", logs: []string{"DEBUG deny policy match ns1/g"},
		},
		{
			name: "selector not named", policies: []*Policy{policy("s", WorkloadSelector, Deny, all)}, target: Target{Namespace: "ns1"},
			want: Decision{Allowed: true}, logs: []string{"DEBUG no allow policies, allow"},
		},
		{
			name: "selector named", policies: []*Policy{policy("s", WorkloadSelector, Allow, all)}, target: Target{Namespace: "ns2", Policies: []string{"ns1/s"}},
			want: Decision{Allowed: true, Policy: "ns1/s", Explicit: true}, logs: []string{"DEBUG allow policy match ns1/s"},
		},
		{
			name: "selector between others", policies: []*Policy{policy("a", Namespace, Deny, none), policy("m", WorkloadSelector, Deny, all), policy("z", Namespace, Deny, all)},
			target: Target{Namespace: "ns1", Policies: []string{"ns1/m"}},
			want:   Decision{Policy: "ns1/m"}, err: "connection closed due to policy rejection: explicitly denied by: ns1/m", logs: []string{"DEBUG deny policy match ns1/m"},
		},
		{
			name: "unknown policy", target: Target{Namespace: "ns1", Policies: []string{"ns1/gone"}},
			want: Decision{Allowed: true}, logs: []string{"WARN skipping unknown policy ns1/gone", "DEBUG no allow policies, allow"},
		},
		{
			name: "dry run has no effect", policies: []*Policy{dry(policy("dry-run-deny", Namespace, Deny, all)), dry(policy("dry-run-allow", Namespace, Allow, none))}, target: Target{Namespace: "ns1"},
			want: Decision{Allowed: true},
			logs: []string{"DEBUG dry-run: deny policy match ns1/dry-run-deny", "DEBUG dry-run: no allow policies match", "DEBUG no allow policies, allow"},
		},
		{
			name: "every dry run that matches", policies: []*Policy{
				dry(policy("d2", Namespace, Deny, all)), dry(policy("d1", Global, Deny, all)), dry(policy("d3", WorkloadSelector, Deny, all)),
				dry(policy("a1", Namespace, Allow, all)), dry(policy("a2", Namespace, Allow, none)), policy("real", Namespace, Allow, none),
			},
			target: Target{Namespace: "ns1", Policies: []string{"ns1/d3", "ns1/d2", "ns1/d3"}}, err: notAllowed,
			logs: []string{
				"DEBUG dry-run: deny policy match ns1/d1", "DEBUG dry-run: deny policy match ns1/d2", "DEBUG dry-run: deny policy match ns1/d3",
				"DEBUG dry-run: allow policy match ns1/a1", "DEBUG no allow policies matched",
			},
		},
		{
			name: "enforced decides, dry run is logged", policies: []*Policy{dry(policy("dry-run-allow", Namespace, Allow, all)), policy("deny", Namespace, Deny, none), policy("allow", Namespace, Allow, all)}, target: Target{Namespace: "ns1"},
			want: Decision{Allowed: true, Policy: "ns1/allow", Explicit: true},
			logs: []string{"DEBUG dry-run: allow policy match ns1/dry-run-allow", "DEBUG allow policy match ns1/allow"},
		},
		{
			name: "no line about dry-run ALLOW policies where enforced ones exist", policies: []*Policy{dry(policy("dry-run-allow", Namespace, Allow, none)), policy("allow", Namespace, Allow, all)}, target: Target{Namespace: "ns1"},
			want: Decision{Allowed: true, Policy: "ns1/allow", Explicit: true}, logs: []string{"DEBUG allow policy match ns1/allow"},
		},
		{
			name: "written with a scheme", policies: []*Policy{policy("a", Namespace, Allow, one(Match{Principals: []StringMatch{{Exact, "spiffe://td/ns/ns1/sa/sa1"}}}))}, target: Target{Namespace: "ns1"},
			err: notAllowed, logs: []string{"DEBUG no allow policies matched"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, logs := recorded(slog.LevelDebug, false)
			s.Replace(test.policies)
			got := s.Authorize(test.target, client())
			err := got.Err
			got.Err = nil
			if got != test.want || errorText(err) != test.err {
				t.Errorf("Authorize = %+v, %v, want %+v, %s", got, err, test.want, test.err)
			}
			if err != nil && !errors.As(err, new(*DenyError)) {
				t.Errorf("error of type %T, want *DenyError", err)
			}
			if diff := cmp.Diff(test.logs, logs()); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
			quiet, logs := recorded(slog.LevelInfo, false)
			quiet.Replace(test.policies)
			if again := quiet.Authorize(test.target, client()); again.Allowed != got.Allowed || again.Policy != got.Policy {
				t.Errorf("Authorize without logging = %+v, want %+v", again, got)
			}
			for _, line := range logs() {
				if !strings.HasPrefix(line, "WARN") {
					t.Errorf("unexpected line at info: %s", line)
				}
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestInfoLogging(t *testing.T) {
	s, logs := recorded(slog.LevelInfo, true)
	s.Authorize(Target{}, client())
	if got := logs(); len(got) != 1 || got[0] != "INFO no allow policies, allow" {
		t.Errorf("log = %v, want one line at info", got)
	}
}

// A workload may name policies that are not there, for a long time: that is
// said once for each state of the set.
func TestUnknownPolicyIsReportedOnce(t *testing.T) {
	s, logs := recorded(slog.LevelWarn, false)
	for range 3 {
		s.Authorize(Target{Policies: []string{"a/b"}}, client())
	}
	if got := logs(); len(got) != 1 {
		t.Errorf("log = %v, want one line", got)
	}
	for i := range 2 * maxWarned {
		s.Authorize(Target{Policies: []string{fmt.Sprint("a/", i)}}, client())
	}
	if got := len(logs()); got != maxWarned-1 {
		t.Errorf("%d more lines, want %d", got, maxWarned-1)
	}
	s.Apply([]*Policy{policy("x", Global, Allow)}, nil)
	s.Authorize(Target{Policies: []string{"a/b"}}, client())
	if got := logs(); len(got) != 1 {
		t.Errorf("log after a change = %v, want one line", got)
	}
}

func TestApply(t *testing.T) {
	s := NewSet(slog.New(slog.DiscardHandler), false)
	deny := policy("p", Namespace, Deny, Rule{})
	denied := func(ns string) bool { return !s.Authorize(Target{Namespace: ns}, client()).Allowed }
	steps := []struct {
		name    string
		do      func()
		ns1     bool
		changed bool
		keys    string
	}{
		{"nothing", func() { s.Apply(nil, nil) }, false, false, ""},
		{"add", func() { s.Apply([]*Policy{deny}, nil) }, true, true, "ns1/p"},
		{"to a selector", func() { s.Apply([]*Policy{policy("p", WorkloadSelector, Deny, Rule{})}, nil) }, false, true, "ns1/p"},
		{"and back, with another", func() { s.Apply([]*Policy{policy("o", Global, Deny), deny}, nil) }, true, true, "ns1/o ns1/p"},
		{"remove unknown", func() { s.Apply(nil, []string{"ns1/q"}) }, true, true, "ns1/o ns1/p"},
		{"removed and added", func() { s.Apply([]*Policy{deny}, []string{"ns1/p"}) }, true, true, "ns1/o ns1/p"},
		{"remove", func() { s.Apply(nil, []string{"ns1/p", "ns1/o"}) }, false, true, ""},
		{"replace, the last counts", func() { s.Replace([]*Policy{policy("p", Namespace, Allow, Rule{}), deny}) }, true, true, "ns1/p"},
		{"replace by nothing", func() { s.Replace(nil) }, false, true, ""},
	}
	for _, step := range steps {
		changed := s.Changed()
		step.do()
		select {
		case <-changed:
			if !step.changed {
				t.Errorf("%s: changed, want no change", step.name)
			}
		default:
			if step.changed {
				t.Errorf("%s: no change, want one", step.name)
			}
		}
		var keys []string
		for _, p := range s.Policies() {
			keys = append(keys, p.Key())
		}
		if got := strings.Join(keys, " "); got != step.keys || denied("ns1") != step.ns1 || denied("ns2") {
			t.Errorf("%s: %q, denied = %t, want %q, %t", step.name, got, denied("ns1"), step.keys, step.ns1)
		}
	}
}

// A reader that is woken sees at least the state that woke it, and none in
// between.
func TestConcurrentReaders(t *testing.T) {
	s := NewSet(slog.New(slog.DiscardHandler), false)
	const rounds = 200
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				changed := s.Changed()
				a := s.Policies()
				s.Authorize(Target{Namespace: "ns1", Policies: []string{"ns1/s"}}, client())
				if len(a)%2 != 0 {
					t.Errorf("%d policies, want an even number", len(a))
				}
				if len(a) == 2*rounds {
					return
				}
				<-changed
			}
		})
	}
	for i := range rounds {
		s.Apply([]*Policy{policy(fmt.Sprint("a", i), Namespace, Allow), policy(fmt.Sprint("b", i), Global, Deny)}, nil)
	}
	wg.Wait()
}

func TestJSON(t *testing.T) {
	p := &Policy{Name: "n", Namespace: "ns", Scope: WorkloadSelector, Action: Deny, DryRun: true, Rules: []Rule{
		{Clause{{
			Namespaces: []StringMatch{{Exact, "a"}}, NotNamespaces: []StringMatch{{Prefix, "b"}},
			Principals: []StringMatch{{Suffix, "c"}}, NotPrincipals: []StringMatch{{Presence, ""}},
			ServiceAccounts: []ServiceAccountMatch{{"d", "e"}}, NotServiceAccounts: []ServiceAccountMatch{{"f", "g"}},
			SourceIPs: prefixes("10.0.0.1/24"), NotSourceIPs: prefixes("::1/128"),
			DestinationIPs: prefixes("1.1.1.1/32"), NotDestinationIPs: prefixes("2.2.2.2/32"),
			DestinationPorts: []uint16{80}, NotDestinationPorts: []uint16{81},
		}, {}}, {}},
		{},
		one(Match{Broken: FieldPrincipals | FieldNotSourceIPs}),
	}}
	want := `{"action":"Deny","dryRun":true,"name":"n","namespace":"ns","rules":[[[` +
		`{"destinationIps":["1.1.1.1/32"],"destinationPorts":[80],"namespaces":[{"Exact":"a"}],"notDestinationIps":["2.2.2.2/32"],"notDestinationPorts":[81],` +
		`"notNamespaces":[{"Prefix":"b"}],"notPrincipals":[{"Presence":[]}],"notServiceAccounts":[{"namespace":"f","serviceAccount":"g"}],"notSourceIps":["::1/128"],` +
		`"principals":[{"Suffix":"c"}],"serviceAccounts":[{"namespace":"d","serviceAccount":"e"}],"sourceIps":["10.0.0.1/24"]},{}],[]],[],` +
		`[[{"broken":["principals","notSourceIps"]}]]],"scope":"WorkloadSelector"}`
	if got, err := json.Marshal(p); err != nil || string(got) != want {
		t.Errorf("Marshal = %s, %v\nwant %s", got, err, want)
	}
	got, err := json.Marshal(&Policy{Name: "n", Namespace: "ns"})
	if want := `{"action":"Allow","dryRun":false,"name":"n","namespace":"ns","rules":[],"scope":"Global"}`; err != nil || string(got) != want {
		t.Errorf("Marshal = %s, %v, want %s", got, err, want)
	}
}

func manyPolicies(n int) (list []*Policy) {
	for i := range n {
		p := policy(fmt.Sprintf("p%03d", i), Scope(i%3), Action(i%2), one(Match{
			Principals: []StringMatch{{Exact, fmt.Sprint("td/ns/ns1/sa/x", i)}}, SourceIPs: prefixes("127.0.0.0/8"),
		}))
		if i == n-1 {
			p = policy("z", Namespace, Allow, one(Match{Principals: []StringMatch{{Prefix, "td/ns/ns1/"}}}))
		}
		list = append(list, p)
	}
	return list
}

func TestAuthorizeAllocations(t *testing.T) {
	for _, n := range []int{0, 1, 100} {
		s := NewSet(slog.New(slog.DiscardHandler), false)
		s.Replace(manyPolicies(n))
		target, c := Target{Namespace: "ns1", Policies: []string{"ns1/p002", "ns1/p005"}}, client()
		if n < 100 {
			target.Policies = nil
		}
		if d := s.Authorize(target, c); !d.Allowed || d.Explicit != (n > 0) {
			t.Fatalf("Authorize = %+v, want allowed", d)
		}
		if got := testing.AllocsPerRun(100, func() { s.Authorize(target, c) }); got != 0 {
			t.Errorf("%v allocations with %d policies, want 0", got, n)
		}
	}
}

func BenchmarkAuthorize(b *testing.B) {
	for _, n := range []int{0, 1, 100} {
		b.Run(fmt.Sprint(n, " policies"), func(b *testing.B) {
			s := NewSet(slog.New(slog.DiscardHandler), false)
			s.Replace(manyPolicies(n))
			target := Target{Namespace: "ns1"}
			c := &Connection{
				Src: netip.MustParseAddrPort("127.0.0.2:1234"), Dst: netip.MustParseAddrPort("127.0.0.3:80"),
				Identity: spiffe.ID{TrustDomain: "td", Namespace: "ns1", ServiceAccount: "sa1"}, HasIdentity: true,
			}
			b.ReportAllocs()
			for b.Loop() {
				s.Authorize(target, c)
			}
		})
	}
}
