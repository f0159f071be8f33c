package route

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestParseAuthority(t *testing.T) {
	for _, test := range []struct {
		in   string
		want string // address, "host|port", or empty if refused
	}{
		{"10.0.0.1:80", "10.0.0.1:80"},
		{"10.0.0.1:0", "10.0.0.1:0"},
		{"10.0.0.1:00000000080", "10.0.0.1:80"},
		{"10.0.0.1:65535", "10.0.0.1:65535"},
		{"[::1]:80", "[::1]:80"},
		{"[FD00::0001]:80", "[fd00::1]:80"},
		{"[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.1]:80"},
		{"[fe80::1%5]:80", "[fe80::1]:80"},
		// not addresses
		{"10.0.0.01:80", "10.0.0.01|80"},
		{"10.0.0:80", "10.0.0|80"},
		{"10.0.0.1:+80", "10.0.0.1|80"},
		{"[10.0.0.1]:80", "[10.0.0.1]|80"},
		{"[fe80::1%25eth0]:80", "[fe80::1%25eth0]|80"},
		{"user@10.0.0.1:80", "10.0.0.1|80"},
		{"a:b@[::1]:80", "[::1]|80"},
		{"%41@host:80", "host|80"},
		{":80", "|80"},
		{"web.default.svc.cluster.local:80", "web.default.svc.cluster.local|80"},
		{"WEB:080", "WEB|80"},
		{"*.example.com:80", "*.example.com|80"},
		{"x[::1]:80", "x[|80"},
		// no host or port
		{"", ""},
		{"host", ""},
		{"10.0.0.1", ""},
		{"[::1]", ""},
		{"::1", ""},
		{"host:", ""},
		{"10.0.0.1:", ""},
		{"host:65536", ""},
		{"host:-1", ""},
		{"host:++1", ""},
		{"host:http", ""},
		{"host:8_0", ""},
		// no authority
		{"::1:80", ""},
		{"host:1:2", ""},
		{"10.0.0.1:80:80", ""},
		{"[::1:80", ""},
		{"::1]:80", ""},
		{"[[::1]]:80", ""},
		{"[::1]]:80", ""},
		{"[a][b]:80", ""},
		{"host:80/", ""},
		{"host/:80", ""},
		{"host?:80", ""},
		{"host#:80", ""},
		{"host%41:80", ""},
		{"%[::1]:80", ""},
		{"ho st:80", ""},
		{"host\x00:80", ""},
		{"hö:80", ""},
		{"host:80@", ""},
		{`a"b:80`, ""},
		{"a\\b:80", ""},
		{"[1:2:3:4:5:6:7:8:9:a]:80", ""},
	} {
		a, ok := ParseAuthority(test.in)
		got := ""
		switch {
		case ok && a.Addr.IsValid():
			got = a.Addr.String()
		case ok:
			got = fmt.Sprint(a.Host, "|", a.Port)
		}
		if got != test.want {
			t.Errorf("ParseAuthority(%q) = %q, want %q", test.in, got, test.want)
		}
	}
}

func FuzzParseAuthority(f *testing.F) {
	for _, s := range []string{"10.0.0.1:80", "[::1]:80", "[fe80::1%5]:80", "user@[::1]:80", "host:080", ":80", "[10.0.0.1]:80", "%41@h:1", "x[::1]:80", "::1", "@:1", "[@[:1", "a]@[:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, ok := ParseAuthority(s)
		if !ok {
			if a != (Authority{}) {
				t.Errorf("ParseAuthority(%q) = %+v, want nothing with a refusal", s, a)
			}
			// What the standard library takes for an address without a zone is one.
			if ap, err := netip.ParseAddrPort(s); err == nil && ap.Addr().Zone() == "" {
				t.Errorf("ParseAuthority(%q) refused, want %s", s, ap)
			}
			return
		}
		if a.Addr.IsValid() {
			if a.Host != "" || a.Port != 0 || a.Addr.Addr().Zone() != "" {
				t.Errorf("ParseAuthority(%q) = %+v, want an address alone", s, a)
			}
			if again, ok := ParseAuthority(a.Addr.String()); !ok || again != a {
				t.Errorf("ParseAuthority(%q) = %+v, %t, want the same as of %q", a.Addr, again, ok, s)
			}
			return
		}
		if !strings.Contains(s, a.Host) || strings.ContainsAny(a.Host, "/?#@ ") {
			t.Errorf("ParseAuthority(%q) = host %q", s, a.Host)
		}
		if ap, err := netip.ParseAddrPort(s); err == nil && ap.Addr().Zone() == "" {
			t.Errorf("ParseAuthority(%q) = a name, want %s", s, ap)
		}
	})
}
