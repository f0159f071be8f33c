package spiffe

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		in   string
		want ID
		bad  bool
	}{
		{in: "spiffe://cluster.local/ns/shop/sa/web", want: ID{"cluster.local", "shop", "web"}},
		{in: "spiffe://td/ns//sa/", want: ID{"td", "", ""}},
		{in: "spiffe:///ns/n/sa/s", want: ID{"", "n", "s"}},
		{in: "spiffe://T_d.x/ns/N s/sa/%41", want: ID{"T_d.x", "N s", "%41"}},
		{in: "spiffe://td/ns/n/sa/s/", bad: true},
		{in: "spiffe://td/ns/n/sa/s/x", bad: true},
		{in: "spiffe://td/ns/n/sa", bad: true},
		{in: "spiffe://td/NS/n/sa/s", bad: true},
		{in: "spiffe://td/ns/n/SA/s", bad: true},
		{in: "SPIFFE://td/ns/n/sa/s", bad: true},
		{in: "td/ns/n/sa/s", bad: true},
		{in: "spiffe://", bad: true},
		{in: "", bad: true},
	}
	for _, tt := range tests {
		got, err := Parse(tt.in)
		if tt.bad {
			var pe *ParseError
			if !errors.As(err, &pe) || err.Error() != "invalid spiffe identity: "+tt.in {
				t.Errorf("Parse(%q) error = %v, want invalid spiffe identity", tt.in, err)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("Parse(%q) = %v, %v, want %v", tt.in, got, err, tt.want)
		}
		if got.String() != tt.in {
			t.Errorf("Parse(%q).String() = %q, want the input", tt.in, got.String())
		}
		if want := strings.TrimPrefix(tt.in, "spiffe://"); got.Principal() != want {
			t.Errorf("Parse(%q).Principal() = %q, want %q", tt.in, got.Principal(), want)
		}
	}
}

func TestText(t *testing.T) {
	id := ID{"td", "n", "s"}
	b, err := json.Marshal(map[ID]ID{id: id})
	if want := `{"spiffe://td/ns/n/sa/s":"spiffe://td/ns/n/sa/s"}`; err != nil || string(b) != want {
		t.Fatalf("Marshal = %s, %v, want %s", b, err, want)
	}
	var back map[ID]ID
	if err := json.Unmarshal(b, &back); err != nil || back[id] != id {
		t.Fatalf("Unmarshal = %v, %v, want %v", back, err, id)
	}
	kept := id
	if err := kept.UnmarshalText([]byte("nope")); err == nil || kept != id {
		t.Errorf("UnmarshalText(nope) = %v, %v, want an error and no change", kept, err)
	}
	if got, _ := id.AppendText([]byte("x=")); string(got) != "x=spiffe://td/ns/n/sa/s" {
		t.Errorf("AppendText = %q, want x=spiffe://td/ns/n/sa/s", got)
	}
}

func TestIsZero(t *testing.T) {
	if !(ID{}).IsZero() || (ID{Namespace: "n"}).IsZero() {
		t.Errorf("IsZero: want true for the zero ID alone")
	}
}

func TestParseAllocates(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _, _ = Parse("spiffe://cluster.local/ns/shop/sa/web") }); n != 0 {
		t.Errorf("Parse allocates %v times, want 0", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"spiffe://td/ns/n/sa/s", "spiffe://td/ns//sa/", "spiffe://", "spiffe://a/b/c/d/e/f", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := Parse(s)
		// The rule in its plainest form: five parts, the second "ns", the fourth "sa".
		parts := strings.Split(strings.TrimPrefix(s, "spiffe://"), "/")
		want := strings.HasPrefix(s, "spiffe://") && len(parts) == 5 && parts[1] == "ns" && parts[3] == "sa"
		if (err == nil) != want {
			t.Fatalf("Parse(%q) error = %v, want success %v", s, err, want)
		}
		if err != nil {
			return
		}
		if id.String() != s {
			t.Fatalf("Parse(%q).String() = %q, want the input", s, id.String())
		}
		if b, _ := id.MarshalText(); string(b) != s {
			t.Fatalf("Parse(%q).MarshalText() = %q, want the input", s, b)
		}
	})
}
