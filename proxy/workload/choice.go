package workload

// Wish is what a connection wants of a service.
type Wish struct {
	Source *Workload // who wants it
	Port   uint16    // of the service
	// Waypoint is set if a waypoint is wanted, whose service need not have the port.
	Waypoint bool
}

// Rand is a source of random numbers.
type Rand interface {
	// Uint64N returns a number in [0, n). n is not 0.
	Uint64N(n uint64) uint64
}

// Choose picks an endpoint for a connection to a service: of those that can serve it the ones that the service's preferences
// rank highest, and of these a random one by capacity. ok is false if there is none, also if the highest have no capacity.
// Like Endpoints it goes by the service's name. It takes one random number, or none. Its time does not grow with the number
// of endpoints, and after a change of one of them what was prepared for the others remains.
func (s *Store) Choose(svc *Service, wish *Wish, rnd Rand) (e Endpoint, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	entry := s.ix.services[svc.Key()]
	if entry == nil || entry.svc == nil {
		return Endpoint{}, false
	}
	c, ok := newChoice(entry.svc, wish)
	if !ok {
		return Endpoint{}, false
	}
	if len(entry.members)+len(entry.static) <= fewEndpoints {
		return c.walk(s.endpoints(entry), rnd)
	}
	return s.classes(entry).choose(entry, &c, rnd)
}

// fewEndpoints is up to how many endpoints are looked at one by one: that is as fast as anything, and takes no memory.
const fewEndpoints = 16

// choice is what Choose looks for.
type choice struct {
	Wish
	listed      bool // the service has the port
	named       bool // and each endpoint its own number for it
	preferences []Scope
	strict      bool
}

// newChoice says what is looked for. ok is false if there can be none.
func newChoice(svc *Service, wish *Wish) (c choice, ok bool) {
	target, listed := svc.Ports[wish.Port]
	if !listed && !wish.Waypoint {
		return choice{}, false
	}
	c = choice{Wish: *wish, listed: listed, named: listed && target == 0}
	c.preferences = svc.preferences()
	c.strict = len(c.preferences) > 0 && svc.LoadBalancer.Mode == ModeStrict
	return c, true
}

// preferences are where the endpoints of the service should be, seen from the client. Those of other modes do not count.
func (s *Service) preferences() []Scope {
	if lb := s.LoadBalancer; lb != nil && (lb.Mode == ModeStrict || lb.Mode == ModeFailover) {
		return lb.Preferences
	}
	return nil
}

// walk chooses by looking at each endpoint. It looks twice rather than collecting candidates, so that it does not allocate.
func (c *choice) walk(endpoints []Endpoint, rnd Rand) (Endpoint, bool) {
	best, total := -1, uint64(0)
	for i := range endpoints {
		rank, ok := c.rank(endpoints[i].Workload, endpoints[i].Ports)
		switch {
		case !ok || rank < best:
		case rank > best:
			best, total = rank, uint64(endpoints[i].Workload.Capacity)
		default:
			total += uint64(endpoints[i].Workload.Capacity)
		}
	}
	if total == 0 {
		return Endpoint{}, false
	}
	at := rnd.Uint64N(total)
	for i := range endpoints {
		e := &endpoints[i]
		if rank, ok := c.rank(e.Workload, e.Ports); !ok || rank != best {
			continue
		}
		if weight := uint64(e.Workload.Capacity); at >= weight {
			at -= weight
			continue
		}
		return *e, true
	}
	return Endpoint{}, false // not reached: the weights add up to total
}

// rank tells whether an endpoint can be chosen, and how much it is preferred. What it looks at is what endpoints of one class
// have in common; see classKey.
func (c *choice) rank(w *Workload, ports PortMap) (rank int, ok bool) {
	if !w.dialable() && (w.Network == c.Source.Network || w.NetworkGateway == nil) {
		return 0, false // no way to reach it
	}
	if c.named && !c.Waypoint {
		if _, mapped := ports[c.Port]; !mapped {
			return 0, false
		}
	}
	if c.Waypoint && !c.listed && w.ApplicationTunnel == nil {
		return 0, false
	}
	if len(c.preferences) == 0 {
		return 0, true
	}
	rank, all := preference(c.preferences, c.Source, w)
	return rank, all || !c.strict
}

// dialable reports whether the workload can be dialled where it is.
func (w *Workload) dialable() bool { return len(w.Addrs) > 0 || w.Hostname != "" }

// preference counts the leading preferences that a workload meets, and tells whether it meets all. If the first one is the
// network, any workload in the source's network ranks above all others, and the others are still told apart by what follows.
func preference(scopes []Scope, source, w *Workload) (rank int, all bool) {
	all = true
	for i, scope := range scopes {
		networkFirst := i == 0 && scope == ScopeNetwork
		switch {
		case near(scope, source, w):
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

// near reports whether two workloads are in the same place. What is not known of both is the same.
func near(scope Scope, a, b *Workload) bool {
	switch scope {
	case ScopeRegion:
		return a.Locality.Region == b.Locality.Region
	case ScopeZone:
		return a.Locality.Zone == b.Locality.Zone
	case ScopeSubzone:
		return a.Locality.Subzone == b.Locality.Subzone
	case ScopeNode:
		return a.Node == b.Node
	case ScopeCluster:
		return a.ClusterID == b.ClusterID
	case ScopeNetwork:
		return a.Network == b.Network
	}
	return false
}
