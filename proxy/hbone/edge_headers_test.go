package hbone

import "testing"

// One character outside of ASCII, wherever it is, makes the header say nothing.
func TestParseForwardedHost_NotASCII(t *testing.T) {
	const header = `by=identifier;for=identifier;host=example.com;proto=https`
	if got := ParseForwardedHost(header); got != "example.com" {
		t.Fatalf("ParseForwardedHost(%q) = %q, want example.com", header, got)
	}
	for i := range len(header) + 1 {
		for _, odd := range []string{"\u00e9", "\x80", "\xff", "\u4e16"} {
			in := header[:i] + odd + header[i:]
			if got := ParseForwardedHost(in); got != "" {
				t.Errorf("ParseForwardedHost(%q) = %q, want none", in, got)
			}
		}
	}
}

// What is written is read back, also nothing at all.
func TestBaggage_RoundTrip(t *testing.T) {
	for name, b := range map[string]Baggage{
		"empty":       {},
		"four fields": {Cluster: "Kubernetes", Namespace: "ns", WorkloadType: "deployment", Workload: "w", Service: "s"},
		"full":        fullBaggage(),
	} {
		if got, ok := ParseBaggage(Header{{HeaderBaggage, b.String()}}); !ok || got != b {
			t.Errorf("%s: ParseBaggage(%q) = %+v, %t, want %+v", name, b.String(), got, ok, b)
		}
	}
}
