package route

import "ztunnel/proxy/workload"

// balance picks an endpoint for a port of a service: of those that can serve
// it the ones that the service's preferences rank highest, and of these a
// random one by capacity. It returns nil if there is none.
//
// It walks the endpoints twice rather than collecting candidates, so that it
// does not allocate.
func (p *picker) balance(svc *workload.Service, port uint16, m mode) *workload.Endpoint {
	target, listed := svc.Ports[port]
	if m == standardMode && !listed {
		return nil
	}
	c := choice{source: p.Source, port: port, mode: m, listed: listed, named: listed && target == 0}
	if lb := svc.LoadBalancer; lb != nil && (lb.Mode == workload.ModeStrict || lb.Mode == workload.ModeFailover) {
		c.preferences, c.strict = lb.Preferences, lb.Mode == workload.ModeStrict
	}
	endpoints := p.Endpoints(svc)
	best, total := -1, uint64(0)
	for i := range endpoints {
		rank, ok := c.rank(&endpoints[i])
		switch {
		case !ok || rank < best:
		case rank > best:
			best, total = rank, uint64(endpoints[i].Workload.Capacity)
		default:
			total += uint64(endpoints[i].Workload.Capacity)
		}
	}
	if total == 0 {
		return nil
	}
	at := p.rnd.Uint64N(total)
	for i := range endpoints {
		e := &endpoints[i]
		if rank, ok := c.rank(e); !ok || rank != best {
			continue
		}
		if weight := uint64(e.Workload.Capacity); at >= weight {
			at -= weight
			continue
		}
		return e
	}
	return nil // not reached: the weights add up to total
}

// choice is what balance looks for.
type choice struct {
	source      *workload.Workload
	port        uint16
	mode        mode
	listed      bool // the service has the port
	named       bool // and each endpoint its own number for it
	preferences []workload.Scope
	strict      bool
}

// rank tells whether an endpoint can be chosen, and how much it is preferred.
func (c *choice) rank(e *workload.Endpoint) (rank int, ok bool) {
	w := e.Workload
	if len(w.Addrs) == 0 && w.Hostname == "" && (w.Network == c.source.Network || w.NetworkGateway == nil) {
		return 0, false // no way to reach it
	}
	if c.mode == standardMode && c.named {
		if _, mapped := e.Ports[c.port]; !mapped {
			return 0, false
		}
	}
	if c.mode == waypointMode && !c.listed && w.ApplicationTunnel == nil {
		return 0, false
	}
	if len(c.preferences) == 0 {
		return 0, true
	}
	rank, all := preference(c.preferences, c.source, w)
	return rank, all || !c.strict
}

// preference counts the leading preferences that a workload meets, and tells
// whether it meets all. If the first one is the network, any workload in the
// source's network ranks above all others, and the others are still told apart
// by what follows.
func preference(scopes []workload.Scope, source, w *workload.Workload) (rank int, all bool) {
	all = true
	for i, scope := range scopes {
		networkFirst := i == 0 && scope == workload.ScopeNetwork
		switch {
		case same(scope, source, w):
			rank++
			if networkFirst {
				rank += len(scopes) - 1
			}
		case networkFirst:
			all = false
		default:
			return rank, false
		}
	}
	return rank, all
}

// same reports whether two workloads are in the same place. What is not known
// of both is the same.
func same(scope workload.Scope, a, b *workload.Workload) bool {
	switch scope {
	case workload.ScopeRegion:
		return a.Locality.Region == b.Locality.Region
	case workload.ScopeZone:
		return a.Locality.Zone == b.Locality.Zone
	case workload.ScopeSubzone:
		return a.Locality.Subzone == b.Locality.Subzone
	case workload.ScopeNode:
		return a.Node == b.Node
	case workload.ScopeCluster:
		return a.ClusterID == b.ClusterID
	case workload.ScopeNetwork:
		return a.Network == b.Network
	}
	return false
}
