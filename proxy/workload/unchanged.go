package workload

import (
	"maps"
	"slices"
)

// After a reconnection the control plane may send the whole mesh again, of which hardly anything has changed. What is the
// same as what is stored is sorted out before the lock is taken: readers are not held up by it, and telemetry and lists of
// endpoints that were made for the stored records remain. All of this is called by the writer alone.

// changedWorkloads returns those of the list that are not stored as they are. It returns the list itself if that is all.
func (ix *index) changedWorkloads(list []*Workload) []*Workload {
	ix.batch++
	return without(list, func(w *Workload) bool {
		r := ix.byUID[w.UID]
		if r == nil || r.batch == ix.batch {
			return false // new, or named twice: then the last counts
		}
		r.batch = ix.batch
		return w != r.w && w.equal(r.w) && !ix.shares(r)
	})
}

// changedServices returns those of the list that are not stored as they are. It returns the list itself if that is all.
func (ix *index) changedServices(list []*Service) []*Service {
	ix.batch++
	return without(list, func(svc *Service) bool {
		e := ix.services[svc.Key()]
		if e == nil || e.svc == nil || e.batch == ix.batch {
			return false
		}
		e.batch = ix.batch
		return svc != e.svc && svc.equal(e.svc)
	})
}

// without returns the list less what is to be dropped, each asked for once and in order. It does not change the list, nor
// copy it if all remains.
func without[T any](list []T, drop func(T) bool) []T {
	i := slices.IndexFunc(list, drop)
	if i < 0 {
		return list
	}
	out := slices.Clone(list[:i])
	for _, v := range list[i+1:] {
		if !drop(v) {
			out = append(out, v)
		}
	}
	return out
}

// putWorkloads stores what changedWorkloads made of a list. If one of them takes an address or a name, perhaps that of
// one that was left out, then who was sent last matters, so the whole list is stored after all.
func (ix *index) putWorkloads(changed, whole []*Workload) {
	ix.collided = false
	for _, w := range changed {
		ix.putWorkload(w)
	}
	if !ix.collided || len(changed) == len(whole) {
		return
	}
	for _, w := range whole {
		ix.putWorkload(w)
	}
}

// shares reports whether another record has an address or a name of this one: then who was sent last goes first, changed
// or not.
func (ix *index) shares(r *record) bool {
	if len(ix.overlap) > 0 {
		for key := range r.addrs() {
			if ix.overlap[key] != nil {
				return true
			}
		}
	}
	return r.w.Hostname != "" && len(ix.byHostname[r.w.hostname()]) > 1 || ix.isLocal(r.w) && len(ix.byInfo[r.w.Info()]) > 1
}

// Contender returns the workload with the UID if another one has one of its addresses or names, else nil. Who is sent last has
// such an address: a source that knows that a contender has not changed puts it into an update all the same.
func (s *Store) Contender(uid []byte) *Workload {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.ix.byUID[string(uid)]; r != nil && s.ix.shares(r) {
		return r.w
	}
	return nil
}

// equal reports whether two workloads say the same.
func (w *Workload) equal(o *Workload) bool {
	return w.UID == o.UID && w.Name == o.Name && w.Namespace == o.Namespace && w.TrustDomain == o.TrustDomain &&
		w.ServiceAccount == o.ServiceAccount && w.Network == o.Network && w.WorkloadName == o.WorkloadName &&
		w.WorkloadType == o.WorkloadType && w.CanonicalName == o.CanonicalName && w.CanonicalRevision == o.CanonicalRevision &&
		w.Hostname == o.Hostname && w.Node == o.Node && w.ClusterID == o.ClusterID && w.Locality == o.Locality &&
		w.Protocol == o.Protocol && w.NetworkMode == o.NetworkMode && w.Status == o.Status &&
		w.NativeTunnel == o.NativeTunnel && w.Capacity == o.Capacity &&
		same(w.Waypoint, o.Waypoint) && same(w.NetworkGateway, o.NetworkGateway) && same(w.ApplicationTunnel, o.ApplicationTunnel) &&
		slices.Equal(w.Addrs, o.Addrs) && slices.Equal(w.AuthorizationPolicies, o.AuthorizationPolicies) &&
		maps.EqualFunc(w.Services, o.Services, maps.Equal[PortMap, PortMap])
}

// equal reports whether two services say the same.
func (s *Service) equal(o *Service) bool {
	return s.Name == o.Name && s.Namespace == o.Namespace && s.Hostname == o.Hostname &&
		s.IPFamilies == o.IPFamilies && s.Canonical == o.Canonical && s.Visibility == o.Visibility &&
		same(s.Waypoint, o.Waypoint) && s.LoadBalancer.equal(o.LoadBalancer) &&
		slices.Equal(s.VIPs, o.VIPs) && slices.Equal(s.CIDRVIPs, o.CIDRVIPs) && maps.Equal(s.Ports, o.Ports) &&
		slices.Equal(s.SubjectAltNames, o.SubjectAltNames) && slices.Equal(s.SANs, o.SANs) &&
		slices.Equal(s.WeightedWaypoints, o.WeightedWaypoints)
}

func (lb *LoadBalancer) equal(o *LoadBalancer) bool {
	if lb == nil || o == nil {
		return lb == o
	}
	return lb.Mode == o.Mode && lb.HealthPolicy == o.HealthPolicy && slices.Equal(lb.Preferences, o.Preferences)
}

// same reports whether both are nil or point to equal values.
func same[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
