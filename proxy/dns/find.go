package dns

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"ztunnel/proxy/workload"
)

// match is a service that a name stands for.
type match struct {
	service *workload.Service
	// stripped is how many labels of the name are the service's, if a search
	// domain had been put behind them; else 0.
	stripped int
}

// find returns the service that a name stands for in the eyes of a workload, and
// whether there is one. It uses the scratch memory.
func (s *Server) find(sc *scratch, n *name, own *workload.Workload) (m match, found bool) {
	if s.config.Store == nil || own == nil {
		return match{}, false
	}
	s.domains.each(n, func(a alias) bool {
		sc.host = candidates(sc.host, n.first(a.labels), a.suffix, func(host []byte, wildcard bool) bool {
			sc.services = s.config.Store.ServicesNamed(host, sc.services[:0])
			svc := s.choose(sc.services, own.Namespace)
			if svc == nil {
				return true
			}
			m, found = match{service: svc, stripped: a.stripped}, true
			if wildcard {
				m.stripped = 0
			}
			return false
		})
		return !found
	})
	clear(sc.services[:cap(sc.services)]) // a pool is not to keep services alive
	return m, found
}

// choose selects among services of one hostname, nil if the client can see none
// that is ours to answer for: one of its own namespace, then a canonical one,
// then one of the preferred namespace, then the first to become known. Of several
// canonical or preferred ones the last counts, as in the reference.
func (s *Server) choose(list []*workload.Service, namespace string) *workload.Service {
	var canonical, preferred, first *workload.Service
	for _, svc := range list {
		switch {
		case len(svc.VIPs) == 0 && !strings.HasSuffix(svc.Hostname, s.domains.services):
			continue // the name of something elsewhere; others know its addresses
		case svc.Visibility == workload.VisibilityNamespace && svc.Namespace != namespace:
			s.reportHidden(svc, namespace)
			continue
		case svc.Namespace == namespace:
			return svc
		}
		if svc.Canonical {
			canonical = svc
		}
		if svc.Namespace == s.config.PreferredNamespace {
			preferred = svc
		}
		if first == nil {
			first = svc
		}
	}
	switch {
	case canonical != nil:
		return canonical
	case preferred != nil:
		return preferred
	}
	return first
}

func (s *Server) reportHidden(svc *workload.Service, namespace string) {
	if !s.config.Log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	s.config.Log.LogAttrs(context.Background(), slog.LevelDebug, "visibility filtering: service not visible to client namespace",
		slog.String("service", svc.Key().String()), slog.String("client_namespace", namespace))
}

// allows reports whether the service may have addresses of a type.
func (s *Server) allows(svc *workload.Service, qtype uint16) bool {
	if qtype == dns.TypeAAAA {
		return s.config.IPv6 && svc.IPFamilies != workload.FamiliesIPv4
	}
	return svc.IPFamilies != workload.FamiliesIPv6
}

// addresses appends the service's addresses of a type to list, in random order:
// its VIPs in the client's network, or for a headless service the first address
// of each endpoint.
func (s *Server) addresses(list []netip.Addr, svc *workload.Service, qtype uint16, network string) []netip.Addr {
	v6 := qtype == dns.TypeAAAA
	for _, vip := range svc.VIPs {
		if vip.Addr.Is6() == v6 && vip.Network == network {
			list = append(list, vip.Addr)
		}
	}
	if len(svc.VIPs) == 0 {
		for _, e := range s.config.Store.Endpoints(svc) {
			i := slices.IndexFunc(e.Workload.Addrs, func(a netip.Addr) bool { return a.Is6() == v6 })
			if i >= 0 {
				list = append(list, e.Workload.Addrs[i])
			}
		}
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}
