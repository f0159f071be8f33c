package spiffe

import "testing"

// Identities as the reference's tests write them.
func TestParse_AsTheReferenceWritesThem(t *testing.T) {
	for text, want := range map[string]ID{
		"spiffe://cluster.local/ns/namespace/sa/service-account": {"cluster.local", "namespace", "service-account"},
		"spiffe://td.with.dots/ns/ns.with.dots/sa/sa.with.dots":  {"td.with.dots", "ns.with.dots", "sa.with.dots"},
		"spiffe://td/ns//sa/": {"td", "", ""},
	} {
		if got, err := Parse(text); err != nil || got != want || got.String() != text {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"td/ns/ns/sa/sa", "spiffe://td/ns/ns/sa", "spiffe://td/ns/ns/sa/sa/", "spiffe://td/ns/ns/foobar/sa/", "spiffe://td/ns/ns/foobar/sa",
	} {
		if got, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", text, got)
		}
	}
}
