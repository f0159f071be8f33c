package workload

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestServiceChoice(t *testing.T) {
	key := func(ns, host string) NamespacedHostname { return NamespacedHostname{ns, host} }
	canonical := func(s *Service) *Service { s.Canonical = true; return s }
	a, b := service(key("a", "h"), "10.1.0.1"), service(key("b", "h"), "10.1.0.1")
	tests := []struct {
		name     string
		services []*Service
		lookup   string // an address, or a hostname
		client   string // "" = none
		want     string
	}{
		{"own namespace a", []*Service{a, b}, "10.1.0.1", "a", "a/h"},
		{"own namespace b", []*Service{a, b}, "10.1.0.1", "b", "b/h"},
		{"neither: the first", []*Service{a, b}, "10.1.0.1", "c", "a/h"},
		{"no client: the first", []*Service{a, b}, "10.1.0.1", "", "a/h"},
		{"only in a, for b", []*Service{a}, "10.1.0.1", "b", "a/h"},
		{"canonical", []*Service{a, canonical(service(key("c", "h"), "10.1.0.1"))}, "10.1.0.1", "d", "c/h"},
		{"own before canonical", []*Service{a, canonical(service(key("c", "h"), "10.1.0.1"))}, "10.1.0.1", "a", "a/h"},
		{"last canonical", []*Service{canonical(service(key("c", "h"), "10.1.0.1")), canonical(service(key("d", "h"), "10.1.0.1"))}, "10.1.0.1", "e", "d/h"},
		{"two of one namespace", []*Service{service(key("a", "x"), "10.1.0.1"), service(key("a", "y"), "10.1.0.1")}, "10.1.0.1", "a", "a/x"},

		{"private, own", []*Service{private(service(key("a", "h"), "10.1.0.1"))}, "10.1.0.1", "a", "a/h"},
		{"private, other", []*Service{private(service(key("a", "h"), "10.1.0.1"))}, "10.1.0.1", "b", ""},
		{"private, no client", []*Service{private(service(key("a", "h"), "10.1.0.1"))}, "10.1.0.1", "", "a/h"},
		{"private range, own", []*Service{private(service(key("a", "h"), "10.1.0.0/24"))}, "10.1.0.1", "a", "a/h"},
		{"private range, other", []*Service{private(service(key("a", "h"), "10.1.0.0/24"))}, "10.1.0.1", "b", ""},
		{"private hostname, own", []*Service{private(service(key("a", "h")))}, "h", "a", "a/h"},
		{"private hostname, other", []*Service{private(service(key("a", "h")))}, "h", "b", ""},
		{"private hostname, no client", []*Service{private(service(key("a", "h")))}, "h", "", "a/h"},
		{"hidden address, then range", []*Service{private(service(key("a", "h"), "10.1.0.1")), service(key("b", "r"), "10.1.0.0/24")}, "10.1.0.1", "c", "b/r"},
		{"shared hostname, c", []*Service{private(service(key("a", "h"))), service(key("b", "h"))}, "h", "c", "b/h"},
		{"shared hostname, a", []*Service{private(service(key("a", "h"))), service(key("b", "h"))}, "h", "a", "a/h"},
		{"no wildcard", []*Service{service(key("a", "*.h"))}, "x.h", "a", ""},

		{"range first", []*Service{service(key("a", "r"), "10.1.0.0/24")}, "10.1.0.0", "", "a/r"},
		{"range last", []*Service{service(key("a", "r"), "10.1.0.0/24")}, "10.1.0.255", "", "a/r"},
		{"range before", []*Service{service(key("a", "r"), "10.1.0.0/24")}, "10.0.255.255", "", ""},
		{"range after", []*Service{service(key("a", "r"), "10.1.0.0/24")}, "10.1.1.0", "", ""},
		{"range with host bits", []*Service{service(key("a", "r"), "10.1.0.9/24")}, "10.1.0.1", "", "a/r"},
		{"range v6", []*Service{service(key("a", "r"), "2001:db8::/112")}, "2001:db8::ffff", "", "a/r"},
		{"range v6 after", []*Service{service(key("a", "r"), "2001:db8::/112")}, "2001:db8::1:0", "", ""},
		{"narrowest", []*Service{service(key("a", "r16"), "10.1.0.0/16"), service(key("a", "r24"), "10.1.0.0/24")}, "10.1.0.1", "", "a/r24"},
		{"everything v4", []*Service{service(key("a", "r"), "0.0.0.0/0")}, "2001:db8::1", "", ""},
		{"everything v6", []*Service{service(key("a", "r"), "::/0")}, "10.1.0.1", "", ""},
		{"mapped is v6", []*Service{service(key("a", "r"), "10.1.0.0/24")}, "::ffff:10.1.0.1", "", ""},
		{"both families", []*Service{service(key("a", "r"), "10.1.0.0/24", "2001:db8::/112")}, "2001:db8::1", "", "a/r"},
		{"address before range", []*Service{service(key("a", "r"), "10.1.0.0/24"), service(key("b", "h"), "10.1.0.1")}, "10.1.0.1", "a", "b/h"},
		{"equal ranges, client", []*Service{service(key("a", "r"), "10.1.0.0/24"), service(key("b", "r"), "10.1.0.0/24")}, "10.1.0.1", "b", "b/r"},
		{"equal ranges, canonical", []*Service{service(key("a", "r"), "10.1.0.0/24"), canonical(service(key("b", "r"), "10.1.0.0/24"))}, "10.1.0.1", "c", "b/r"},
		{"equal ranges, first", []*Service{service(key("a", "r"), "10.1.0.0/24"), service(key("b", "r"), "10.1.0.0/24")}, "10.1.0.1", "c", "a/r"},
		{"own wide before narrow", []*Service{service(key("a", "r"), "10.1.0.0/16"), service(key("b", "r"), "10.1.0.0/24")}, "10.1.0.1", "a", "a/r"},
		{"third namespace", []*Service{service(key("a", "r"), "10.1.0.0/16"), service(key("b", "r"), "10.1.0.0/24")}, "10.1.0.1", "c", "b/r"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := NewStore(Config{})
			s.Apply(Update{Services: tt.services})
			s.Apply(Update{Services: tt.services}) // sending them again must change nothing
			find := func() string {
				var got *Service
				if strings.Trim(tt.lookup, "0123456789abcdef:.") == "" {
					got = s.ServiceByVIP("", ip(tt.lookup), tt.client, tt.client != "")
					if other := s.ServiceByVIP("other", ip(tt.lookup), tt.client, tt.client != ""); other != nil {
						t.Errorf("ServiceByVIP in another network = %s, want none", other.Key())
					}
				} else {
					got = s.ServiceByHostname(tt.lookup, tt.client, tt.client != "")
				}
				if got == nil {
					return ""
				}
				return got.Key().String()
			}
			if got := find(); got != tt.want {
				t.Errorf("lookup of %s for %q = %q, want %q", tt.lookup, tt.client, got, tt.want)
			}
			for _, svc := range tt.services {
				s.Apply(Update{RemovedServices: []NamespacedHostname{svc.Key()}})
			}
			wantEmpty(t, s)
		})
	}
}

// Two hosts of one namespace on one address must not take it from each other.
func TestSharedVIPSurvivesRemoval(t *testing.T) {
	for _, gone := range []string{"x", "y"} {
		s := NewStore(Config{})
		x, y := NamespacedHostname{"a", "x"}, NamespacedHostname{"a", "y"}
		put(s, service(x, "10.1.0.1"), service(y, "10.1.0.1"), pod("p", "10.0.0.1", x, y))
		s.Apply(Update{RemovedServices: []NamespacedHostname{{"a", gone}}})
		svc := s.ServiceByVIP("", ip("10.1.0.1"), "a", true)
		if svc == nil || svc.Hostname == gone {
			t.Errorf("ServiceByVIP after %s was removed = %v, want the other one", gone, svc)
		}
	}
}

// The endpoints of a service with a range are there, whatever came first, and no copy of the service piles up.
func TestCIDREndpoints(t *testing.T) {
	s := NewStore(Config{})
	put(s, service(web, "10.1.0.0/24"), pod("a", "10.0.0.1", web))
	for i := range 3 {
		put(s, pod("b", "10.0.0.2", web))
		if got := len(s.Endpoints(s.ServiceByVIP("", ip("10.1.0.5"), "", false))); got != 2 {
			t.Errorf("round %d: Endpoints of the range = %d, want 2", i, got)
		}
	}
	if got := len(s.ix.cidrs[""].entries); got != 1 {
		t.Errorf("ranges = %d, want 1", got)
	}
}

func TestLogs(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := NewStore(Config{Log: log})
	svc := private(service(web, "10.1.0.1"))
	svc.SubjectAltNames = []string{"spiffe://td/ns/n/sa/s", "dns.example"}
	svc.SANs, _ = ParseSANs(svc.SubjectAltNames)
	put(s, svc)
	s.ServiceByVIP("", ip("10.1.0.1"), "other", true)
	s.Apply(Update{Removed: []string{"nothing", "a/b", "c//Pod/x/y"}})
	for _, want := range []string{
		`level=WARN msg="ignoring invalid SAN dns.example: invalid spiffe identity: dns.example"`,
		`level=DEBUG msg="visibility filtering: service not visible to client namespace" service=shop/web.shop.svc.cluster.local client_namespace=other`,
		`msg="removal of a resource that is neither workload nor service" name=nothing`,
		`msg="removal of an unknown service" name=a/b`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "Pod") {
		t.Errorf("log speaks of an unknown workload:\n%s", out.String())
	}
}
