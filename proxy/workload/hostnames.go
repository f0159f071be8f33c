package workload

// ServicesNamed appends the services with exactly this hostname to list, in the order in which they became known, and
// returns it. Wildcards are not expanded, and services are there whatever their visibility. It allocates only if the list
// has to grow, so that a resolver can ask for many names in a row.
func (s *Store) ServicesNamed(host []byte, list []*Service) []*Service {
	s.mu.RLock()
	for _, e := range s.ix.byHost[string(host)] {
		list = append(list, e.svc)
	}
	s.mu.RUnlock()
	return list
}
