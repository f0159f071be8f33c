package dns

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

func parseName(tb testing.TB, text string) *name {
	tb.Helper()
	wire := make([]byte, maxName)
	end, err := dns.PackDomainName(text, wire, 0, nil, false)
	if err != nil {
		tb.Fatalf("%s: %v", text, err)
	}
	n := new(name)
	if got := n.parse(wire[:end]); got != end {
		tb.Fatalf("parse of %s = %d, want %d", text, got, end)
	}
	return n
}

func TestDomains_Expand(t *testing.T) {
	d := newDomains("D", "ns1", nil)
	for asked, want := range map[string][]string{
		"name.":                   {"name.ns1.svc.D"},
		"name.ns2.":               {"name.ns2.svc.D", "name.ns2.ns1.svc.D"},
		"name.ns2.svc.":           {"name.ns2.svc.D", "name.ns2.svc.svc.D"},
		"name.ns2.not-svc.":       {"name.ns2.not-svc.svc.D"},
		"pod.sub.ns.svc.":         {"pod.sub.ns.svc.D"},
		"pod.sub.ns.not-svc.":     nil,
		"name.ns2.svc.cluster.":   nil,
		"name.ns2.svc.cluster.D.": nil,
	} {
		n := parseName(t, asked)
		var got []string
		d.expand(n, n.labels(), 0, func(a alias) bool {
			got = append(got, string(n.first(a.labels))+a.suffix)
			return true
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", asked, diff)
		}
	}
}

func TestDomains_Search(t *testing.T) {
	if d := newDomains("cluster.local", "default-ns", nil); !slices.Equal(slices.Collect(d.searched), []string{"default-ns.svc.cluster.local", "svc.cluster.local", "cluster.local"}) {
		t.Errorf("search list %q, want that of Kubernetes", d.search)
	}
	if d := newDomains("cluster.local", "default-ns", []string{"A.example.com.", "b"}); !slices.Equal(slices.Collect(d.searched), []string{"a.example.com", "b"}) {
		t.Errorf("search list %q, want the one that is given", d.search)
	}
	if d := newDomains("cluster.local", "default-ns", []string{}); len(slices.Collect(d.searched)) != 0 {
		t.Errorf("search list %q, want none", d.search)
	}
}

func TestCandidates(t *testing.T) {
	got := []string{}
	candidates(nil, []byte("svc1.ns1"), ".svc.cluster.local", func(host []byte, wildcard bool) bool {
		if wildcard != (host[0] == '*') {
			t.Errorf("%s is a wildcard: %v", host, wildcard)
		}
		got = append(got, string(host))
		return true
	})
	want := []string{"svc1.ns1.svc.cluster.local", "*.ns1.svc.cluster.local", "*.svc.cluster.local", "*.cluster.local", "*.local"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestName_Trim(t *testing.T) {
	for _, tc := range []struct {
		name, domain string
		want         int
	}{
		{"name.ns.svc.cluster.local.", "svc.cluster.local", 2},
		{"svc.cluster.local.", "svc.cluster.local", 0},
		{"name.xsvc.cluster.local.", "svc.cluster.local", 0},
		{`name\.svc.cluster.local.`, "svc.cluster.local", 0},
		{"local.", "svc.cluster.local", 0},
		{"name.", "", 0},
	} {
		if got := parseName(t, tc.name).trim(tc.domain); got != tc.want {
			t.Errorf("trim(%s, %s) = %d, want %d", tc.name, tc.domain, got, tc.want)
		}
	}
}

// aliasModel is 7.4 and 7.5 of the specification in its own words.
func aliasModel(asked, ns, domain string, search []string) []string {
	var out []string
	kube := func(n string) []string {
		labels := strings.Split(n, ".")
		switch svc := labels[len(labels)-1] == "svc"; {
		case len(labels) == 1:
			return []string{n + "." + ns + ".svc." + domain}
		case len(labels) == 2:
			return []string{n + ".svc." + domain, n + "." + ns + ".svc." + domain}
		case len(labels) == 3 && svc:
			return []string{n + "." + domain, n + ".svc." + domain}
		case len(labels) == 3:
			return []string{n + ".svc." + domain}
		case len(labels) == 4 && svc:
			return []string{n + "." + domain}
		}
		return nil
	}
	out = append(append(out, asked), kube(asked)...)
	for _, s := range search {
		if t, ok := strings.CutSuffix(asked, "."+s); ok {
			out = append(append(out, t), kube(t)...)
		}
	}
	return out
}

func TestDomains_Model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		labels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "svc", "ns1", "cluster", "local", "b"}), 1, 8).Draw(t, "labels")
		asked := strings.Join(labels, ".")
		d := newDomains("cluster.local", "ns1", nil)
		n := new(name)
		wire := make([]byte, maxName)
		end, err := dns.PackDomainName(asked+".", wire, 0, nil, false)
		if err != nil || n.parse(wire[:end]) == 0 {
			t.Fatal(asked, err)
		}
		var got []string
		d.each(n, func(a alias) bool {
			got = append(got, string(n.first(a.labels))+a.suffix)
			return true
		})
		if diff := cmp.Diff(aliasModel(asked, "ns1", "cluster.local", slices.Collect(d.searched)), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", asked, diff)
		}
	})
}

// A name is read as the library reads it.
func FuzzName(f *testing.F) {
	f.Add([]byte("\x03www\x07example\x00"))
	f.Add([]byte("\x04a. \x00\xffx"))
	f.Add([]byte("\x0300\\\x00"))
	f.Add([]byte("\x02a.\x00"))
	f.Add([]byte("\xc0\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := new(name)
		length := n.parse(b)
		text, end, err := dns.UnpackDomainName(b, 0)
		if length == 0 {
			if err == nil && !bytes.ContainsFunc(b[:end], func(r rune) bool { return r >= 0xc0 || r == 0xfffd }) {
				t.Fatalf("%x is no name, the library reads %s", b, text)
			}
			return
		}
		if err != nil || length != end {
			t.Fatalf("%x: %d bytes, the library %d, %v", b, length, end, err)
		}
		want := strings.TrimSuffix(lowerASCII(text), ".") // the library's last dot is always the root's
		if string(n.text) != want || n.labels() != dns.CountLabel(text) {
			t.Errorf("%x: %q with %d labels, the library has %q", b, n.text, n.labels(), text)
		}
		for k := range n.labels() {
			wire := append(slices.Clone(n.wire[:n.wireLength(k+1)]), 0)
			first, _, err := dns.UnpackDomainName(wire, 0)
			if err != nil || lowerASCII(first) != string(n.first(k+1))+"." {
				t.Errorf("%x: the first %d labels are %q, the library has %q, %v", b, k+1, n.first(k+1), first, err)
			}
		}
	})
}

func lowerASCII(s string) string { return string(appendLower(nil, []byte(s))) }
