package workload

import "ztunnel/proxy/spiffe"

// WithoutLocal returns those of the identities, each once, whose namespace and service account no local workload has. The
// trust domain is not looked at.
func (s *Store) WithoutLocal(ids []spiffe.ID) []spiffe.ID {
	if len(ids) == 0 {
		return nil
	}
	type account struct{ namespace, name string }
	used := make(map[account]struct{})
	s.mu.RLock()
	for info := range s.ix.byInfo {
		used[account{info.Namespace, info.ServiceAccount}] = struct{}{}
	}
	s.mu.RUnlock()
	var out []spiffe.ID
	seen := make(map[spiffe.ID]struct{}, len(ids))
	for _, id := range ids {
		_, isUsed := used[account{id.Namespace, id.ServiceAccount}]
		if _, again := seen[id]; !again && !isUsed {
			out = append(out, id)
		}
		seen[id] = struct{}{}
	}
	return out
}
