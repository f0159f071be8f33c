package hbone

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fullBaggage is baggage with every field known.
func fullBaggage() Baggage {
	return Baggage{
		Cluster: "Kubernetes", Namespace: "ns", WorkloadType: "pod", Workload: "web-1",
		Service: "web", Version: "v1", Region: "r", Zone: "z",
	}
}

const fullBaggageText = "k8s.cluster.name=Kubernetes,k8s.namespace.name=ns,k8s.pod.name=web-1,service.name=web," +
	"service.version=v1,cloud.region=r,cloud.availability_zone=z"

func TestBaggageString(t *testing.T) {
	full := fullBaggage()
	for _, tc := range []struct {
		name string
		in   Baggage
		want string
	}{
		{"empty", Baggage{}, ""},
		{"full", full, fullBaggageText},
		{
			"four fields",
			Baggage{Cluster: "c", Namespace: "n", WorkloadType: "deployment", Workload: "w", Service: "s"},
			"k8s.cluster.name=c,k8s.namespace.name=n,k8s.deployment.name=w,service.name=s",
		},
		{"type unknown", Baggage{Workload: "w"}, "k8s.deployment.name=w"},
		{"type without name", Baggage{WorkloadType: "job", Zone: "z"}, "cloud.availability_zone=z"},
		{"value that no field can carry", Baggage{Cluster: "a\r\nb", Service: "s"}, "service.name=s"},
	} {
		if got := tc.in.String(); got != tc.want {
			t.Errorf("%s: %+v.String() = %q, want %q", tc.name, tc.in, got, tc.want)
		}
	}
	if got := string(full.Append([]byte("x"))); got != "x"+fullBaggageText {
		t.Errorf("Append = %q, want the field after what was there", got)
	}
}

func TestParseBaggage(t *testing.T) {
	for _, tc := range []struct {
		name  string
		lines []string
		want  Baggage
		bad   bool
	}{
		{"none", nil, Baggage{}, false},
		{"one line", []string{fullBaggageText}, fullBaggage(), false},
		{"a line each", strings.Split(fullBaggageText, ","), fullBaggage(), false},
		{"empty values", []string{"k8s.cluster.name=,k8s.namespace.name=,k8s.pod.name=,service.name=,service.version="}, Baggage{}, false},
		{"empty value resets", []string{"service.name=a,service.name=,k8s.job.name=j,k8s.pod.name="}, Baggage{}, false},
		{"last one wins", []string{"service.name=a,service.name=b", "service.name=c"}, Baggage{Service: "c"}, false},
		{"last type wins", []string{"k8s.cronjob.name=a,k8s.job.name=b"}, Baggage{WorkloadType: "job", Workload: "b"}, false},
		{"second = drops the rest", []string{"service.name=a=b=c"}, Baggage{Service: "a"}, false},
		{"blank makes the key unknown", []string{"service.version=1, service.name=a"}, Baggage{Version: "1"}, false},
		{"blank in the value stays", []string{"service.name= a "}, Baggage{Service: " a "}, false},
		{"no =, unknown keys and types", []string{"service.name,x=y,k8s.daemonset.name=d,,=,=v"}, Baggage{}, false},
		{"not ASCII fails the whole", []string{"service.name=a", "x=\u00fc"}, Baggage{}, true},
		{"control character fails the whole", []string{"service.name=a\x01"}, Baggage{}, true},
	} {
		h := Header{{"other", "service.name=no"}}
		for _, l := range tc.lines {
			h = append(h, Field{HeaderBaggage, l})
		}
		got, ok := ParseBaggage(h)
		if diff := cmp.Diff(tc.want, got); diff != "" || ok == tc.bad {
			t.Errorf("%s: ParseBaggage(%q) ok = %v, want %v, difference:\n%s", tc.name, tc.lines, ok, !tc.bad, diff)
		}
	}
}

func TestForwarded(t *testing.T) {
	for _, tc := range []struct{ addr, host, want string }{
		{"127.0.0.1:80", "", `for="127.0.0.1:80"`},
		{"[::1]:80", "", `for="[::1]:80"`},
		{"127.0.0.1:80", "example.com", `for="127.0.0.1:80";host=example.com`},
		{"127.0.0.1:80", "b\u00fccher.example", `for="127.0.0.1:80"`},
	} {
		if got := Forwarded(netip.MustParseAddrPort(tc.addr), tc.host); got != tc.want {
			t.Errorf("Forwarded(%s, %q) = %q, want %q", tc.addr, tc.host, got, tc.want)
		}
	}
}

func TestParseForwardedHost(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"by=identifier;for=identifier;host=example.com;proto=https", "example.com"},
		{`by=identifier;for=identifier;host="example.com";proto=https`, "example.com"},
		{`for="127.0.0.1:80";host=example.com`, "example.com"},
		{`for=x; host=a `, "a"},
		{"", ""},
		{"for=x", ""},
		{"host=", ""},
		{`host=""`, ""},
		{`host="`, ""},
		{`host=""a""`, `"a"`},
		{`host="a`, "a"},
		{"xhost=a", ""},
		{"Host=a", ""},
		{"host=a;host=b", "a"},
		{"host=example.com;by=\u00e9", ""},
	} {
		if got := ParseForwardedHost(tc.in); got != tc.want {
			t.Errorf("ParseForwardedHost(%q) = %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestTraceparent(t *testing.T) {
	a, b := NewTraceparent(), NewTraceparent()
	if a == b {
		t.Errorf("NewTraceparent() gave %v twice", a)
	}
	s := a.String()
	if len(s) != 55 || !strings.HasPrefix(s, "00-") || !strings.HasSuffix(s, "-00") {
		t.Errorf("String() = %q, want 00-<32 hex>-<16 hex>-00", s)
	}
	if got, ok := ParseTraceparent(s); !ok || got != a {
		t.Errorf("ParseTraceparent(%q) = %v, %v, want %v", s, got, ok, a)
	}
	const good = "01-4BF92F3577B34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff"
	got, ok := ParseTraceparent(good)
	if !ok || got.String() != strings.ToLower(good) {
		t.Errorf("ParseTraceparent(%q) = %v, %v, want it", good, got, ok)
	}
	for _, in := range []string{
		"",
		good + "0",
		good[1:],
		strings.Repeat("0", 55),
		strings.Repeat("-", 55),
		strings.Replace(good, "4BF9", "4BG9", 1),
		strings.Replace(good, "-", "_", 1),
		"0-14bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff",
	} {
		if got, ok := ParseTraceparent(in); ok {
			t.Errorf("ParseTraceparent(%q) = %v, want it refused", in, got)
		}
	}
}

func TestHeaderAllocations(t *testing.T) {
	baggage, trace := fullBaggage(), NewTraceparent()
	client := netip.MustParseAddrPort("10.0.0.1:40000")
	buf := make([]byte, 0, 512)
	h := Header{{HeaderBaggage, fullBaggageText}}
	text := trace.String()
	for _, tc := range []struct {
		name string
		want float64
		fn   func()
	}{
		{"Baggage.Append", 0, func() { buf = baggage.Append(buf[:0]) }},
		{"ParseBaggage", 0, func() { ParseBaggage(h) }},
		{"Forwarded", 1, func() { _ = Forwarded(client, "example.com") }},
		{"ParseForwardedHost", 0, func() { ParseForwardedHost(`for="127.0.0.1:80";host=example.com`) }},
		{"NewTraceparent and String", 1, func() { tp := NewTraceparent(); _ = tp.String() }},
		{"ParseTraceparent", 0, func() { ParseTraceparent(text) }},
	} {
		if got := testing.AllocsPerRun(100, tc.fn); got > tc.want {
			t.Errorf("%s: %v allocations, want at most %v", tc.name, got, tc.want)
		}
	}
}

func FuzzParseBaggage(f *testing.F) {
	f.Add(fullBaggageText)
	f.Add("service.name=,a=b=c,,k8s.job.name=x, service.name=y")
	f.Fuzz(func(t *testing.T, s string) {
		b, ok := ParseBaggage(Header{{HeaderBaggage, s}})
		if !ok && b != (Baggage{}) {
			t.Fatalf("ParseBaggage(%q) = %+v although refused", s, b)
		}
		again, ok := ParseBaggage(Header{{HeaderBaggage, b.String()}})
		if !ok || again != b {
			t.Fatalf("ParseBaggage(%q) = %+v, %v, want %+v", b.String(), again, ok, b)
		}
	})
}

func FuzzParseForwardedHost(f *testing.F) {
	f.Add(`for="127.0.0.1:80";host=example.com`)
	f.Add(`host="";host="a"`)
	f.Fuzz(func(t *testing.T, s string) {
		host := ParseForwardedHost(s)
		if host != "" && !strings.Contains(s, host) || strings.Contains(host, ";") {
			t.Fatalf("ParseForwardedHost(%q) = %q, want a part of one element", s, host)
		}
	})
}

func FuzzParseTraceparent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add(strings.Repeat("0", 55))
	f.Fuzz(func(t *testing.T, s string) {
		if tp, ok := ParseTraceparent(s); ok && tp.String() != strings.ToLower(s) {
			t.Fatalf("ParseTraceparent(%q).String() = %q", s, tp.String())
		}
	})
}
