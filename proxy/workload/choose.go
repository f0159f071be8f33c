package workload

import (
	"context"
	"log/slog"
	"net/netip"
)

// client is on whose behalf a service is looked for.
type client struct {
	namespace string
	known     bool // false: no visibility applies and no namespace is preferred
}

func (c client) sees(svc *Service) bool {
	return !c.known || svc.Visibility == VisibilityPublic || svc.Namespace == c.namespace
}

func (c client) shares(svc *Service) bool { return c.known && svc.Namespace == c.namespace }

// ServiceByVIP returns the service that has the virtual address, or nil. With hasClient, services that the client's
// namespace may not see do not count. One of the client's own namespace goes first, then a canonical one (of several the
// last to become known), then the first to become known. If none is left, services whose range holds the address are
// looked at: one of the client's namespace first, then the narrowest range, then a canonical one.
func (s *Store) ServiceByVIP(network string, addr netip.Addr, clientNamespace string, hasClient bool) *Service {
	c := client{namespace: clientNamespace, known: hasClient}
	s.mu.RLock()
	svc, hidden := choose(s.ix.byVIP.get(NetworkAddress{Network: network, Addr: addr}), c)
	if svc == nil {
		if r := s.ix.cidrs[network]; r != nil {
			svc = r.choose(addr, c)
		}
	}
	s.mu.RUnlock()
	s.reportHidden(hidden, c)
	return svc
}

// ServiceByHostname returns the service with exactly this hostname, in any namespace, or nil; wildcards are not expanded.
// Visibility and preference are those of ServiceByVIP.
func (s *Store) ServiceByHostname(host, clientNamespace string, hasClient bool) *Service {
	c := client{namespace: clientNamespace, known: hasClient}
	s.mu.RLock()
	svc, hidden := choose(s.ix.byHost[host], c)
	s.mu.RUnlock()
	s.reportHidden(hidden, c)
	return svc
}

// choose selects among services that share a name or address. It also returns one that the client may not see, if it came
// across one.
func choose(list []*entry, c client) (best, hidden *Service) {
	for _, e := range list {
		switch {
		case !c.sees(e.svc):
			hidden = e.svc
		case c.shares(e.svc):
			return e.svc, hidden
		case best == nil || e.svc.Canonical:
			best = e.svc
		}
	}
	return best, hidden
}

// choose selects among the services with a range that holds the address. A range in the client's namespace goes before a
// narrower one elsewhere, as in the reference.
func (r *ranges) choose(addr netip.Addr, c client) *Service {
	var best *Service
	bestBits := 0
	for _, l := range *r.lengths(addr) {
		p, err := addr.Prefix(l.bits)
		if err != nil {
			continue // not possible: the length belongs to the family
		}
		for _, e := range r.entries[p] {
			if c.sees(e.svc) && (best == nil || better(e.svc, l.bits, best, bestBits, c)) {
				best, bestBits = e.svc, l.bits
			}
		}
	}
	return best
}

// better compares by namespace, then prefix length, then canonical.
func better(a *Service, aBits int, b *Service, bBits int, c client) bool {
	if c.shares(a) != c.shares(b) {
		return c.shares(a)
	}
	if aBits != bBits {
		return aBits > bBits
	}
	return a.Canonical && !b.Canonical
}

func (s *Store) reportHidden(svc *Service, c client) {
	if svc == nil || !s.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	s.log.LogAttrs(context.Background(), slog.LevelDebug, "visibility filtering: service not visible to client namespace",
		slog.String("service", svc.Key().String()), slog.String("client_namespace", c.namespace))
}
