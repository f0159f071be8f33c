package control

import "ztunnel/proxy/spiffe"

// A kind is one of the two types of resources that are served.
type kind int

const (
	addresses kind = iota
	policies
	kinds // how many there are
)

// typeURLs name the kinds on the wire.
var typeURLs = [kinds]string{
	addresses: "type.googleapis.com/istio.workload.Address",
	policies:  "type.googleapis.com/istio.security.Authorization",
}

// An entry is one resource, ready to be sent. It is not changed after it was
// made.
type entry struct {
	kind    kind
	name    string
	version string // a hash of the content
	body    []byte // the encoded message

	isService bool
	aliases   []string // network/IP, by which it is asked for on demand
	// Of workloads:
	services []string // names of the services that it is an endpoint of
	node     string
	id       spiffe.ID // without trust domain
}

// store has the resources and finds them by all that clients ask for. The mutex
// of its owner protects it.
type store struct {
	byName    [kinds]map[string]*entry
	byAlias   index
	byService index           // workloads
	byNode    index           // workloads
	accounts  map[account]int // how many workloads run with it
	services  int             // how many of the addresses are services
}

// An account is a service account on a node: what a ztunnel of the node may ask
// a certificate for.
type account struct {
	node string
	id   spiffe.ID // without trust domain
}

// An index finds entries by a property that several may share.
type index map[string]map[*entry]struct{}

func (i index) add(key string, e *entry) {
	if i[key] == nil {
		i[key] = map[*entry]struct{}{}
	}
	i[key][e] = struct{}{}
}

func (i index) remove(key string, e *entry) {
	delete(i[key], e)
	if len(i[key]) == 0 {
		delete(i, key)
	}
}

func newStore() store {
	s := store{byAlias: index{}, byService: index{}, byNode: index{}, accounts: map[account]int{}}
	for k := range s.byName {
		s.byName[k] = map[string]*entry{}
	}
	return s
}

func (s *store) count() (workloads, services, allPolicies int) {
	return len(s.byName[addresses]) - s.services, s.services, len(s.byName[policies])
}

// put adds an entry or replaces that of its name. It reports whether that
// changed anything.
func (s *store) put(e *entry) bool {
	old := s.byName[e.kind][e.name]
	if old != nil && old.version == e.version {
		return false
	}
	if old != nil {
		s.unlink(old)
	}
	s.byName[e.kind][e.name] = e
	for _, alias := range e.aliases {
		s.byAlias.add(alias, e)
	}
	for _, service := range e.services {
		s.byService.add(service, e)
	}
	switch {
	case e.isService:
		s.services++
	case e.kind == addresses && e.node != "":
		s.byNode.add(e.node, e)
		s.accounts[account{e.node, e.id}]++
	}
	return true
}

// remove reports whether there was such a resource.
func (s *store) remove(k kind, name string) bool {
	e := s.byName[k][name]
	if e == nil {
		return false
	}
	delete(s.byName[k], name)
	s.unlink(e)
	return true
}

// unlink takes an entry out of everything but the map of names.
func (s *store) unlink(e *entry) {
	for _, alias := range e.aliases {
		s.byAlias.remove(alias, e)
	}
	for _, service := range e.services {
		s.byService.remove(service, e)
	}
	switch {
	case e.isService:
		s.services--
	case e.kind == addresses && e.node != "":
		s.byNode.remove(e.node, e)
		at := account{e.node, e.id}
		if s.accounts[at]--; s.accounts[at] == 0 {
			delete(s.accounts, at)
		}
	}
}

// find adds to found, by name, what a client gets that asks for a key: a name,
// or an address as network/IP. With a service come all its workloads. It
// reports whether there is anything.
func (s *store) find(k kind, key string, found map[string]*entry) bool {
	known := false
	add := func(e *entry) {
		known = true
		found[e.name] = e
		if !e.isService {
			return
		}
		for workload := range s.byService[e.name] {
			found[workload.name] = workload
		}
	}
	if e := s.byName[k][key]; e != nil {
		add(e)
	}
	if k == addresses {
		for e := range s.byAlias[key] {
			add(e)
		}
	}
	return known
}
