package workload

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
)

// classes is the endpoints of one service in classes of which no connection can tell the members apart: it takes all of a
// class or none, and each with the same weight. So a choice looks at the classes, of which there are few, and then takes a
// member by its number. It is made by the first choice that needs it, and from then on the writer keeps it up to date, each
// change of an endpoint in constant time. Readers hold the store's read lock while they use it.
type classes struct {
	list   []class // empty ones are free to be used again
	byKey  map[classKey]int32
	free   []int32
	where  []spot     // of each member of the entry
	static []Endpoint // those given with the service

	// selections remember what connections from one place choose among, where there are many classes. The writer drops them
	// at every change.
	selections [4]atomic.Pointer[selection]
	selected   atomic.Uint32 // how many were made
}

// class is some endpoints, each as its index among the members of the entry, or from minus one down among the static ones.
type class struct {
	key     classKey
	members []int32
}

func (c *class) weight() uint64 { return uint64(c.key.capacity) * uint64(len(c.members)) }

// spot says where a member is.
type spot struct {
	class int32 // none if negative: the service does not accept its health, or nobody can reach it
	pos   int32 // in class.members
}

// classKey is what choice.rank looks at, as far as it can matter for the service, and the capacity.
type classKey struct {
	place    place  // of it what the preferences look at
	ports    string // which ports the endpoint has, if the service has named ones
	capacity uint32
	remote   bool // it is only reached from other networks than its own, which is in place then
	tunnel   bool
}

// place is where a workload is.
type place struct{ region, zone, subzone, node, cluster, network string }

func placeOf(w *Workload) place {
	return place{w.Locality.Region, w.Locality.Zone, w.Locality.Subzone, w.Node, w.ClusterID, w.Network}
}

// keyOf returns the class of an endpoint of the service. ok is false if it is in none.
func keyOf(svc *Service, e *Endpoint) (key classKey, ok bool) {
	w := e.Workload
	if !svc.Accepts(e.Status) {
		return classKey{}, false
	}
	key.capacity, key.tunnel = w.Capacity, w.ApplicationTunnel != nil
	for _, scope := range svc.preferences() {
		switch scope {
		case ScopeRegion:
			key.place.region = w.Locality.Region
		case ScopeZone:
			key.place.zone = w.Locality.Zone
		case ScopeSubzone:
			key.place.subzone = w.Locality.Subzone
		case ScopeNode:
			key.place.node = w.Node
		case ScopeCluster:
			key.place.cluster = w.ClusterID
		case ScopeNetwork:
			key.place.network = w.Network
		}
	}
	if !w.dialable() {
		if w.NetworkGateway == nil {
			return classKey{}, false
		}
		key.remote, key.place.network = true, w.Network
	}
	if svc.namesPorts() {
		key.ports = portList(e.Ports)
	}
	return key, true
}

// dividesAs reports whether endpoints are listed and divided into the same classes for another version of the service.
func (s *Service) dividesAs(o *Service) bool {
	return s.LoadBalancer.equal(o.LoadBalancer) && s.namesPorts() == o.namesPorts()
}

// namesPorts reports whether each endpoint has its own number for a port of the service.
func (s *Service) namesPorts() bool {
	for _, target := range s.Ports {
		if target == 0 {
			return true
		}
	}
	return false
}

// portList is the service ports of a map as a string that can be compared.
func portList(m PortMap) string {
	var few [8]uint16
	ports := few[:0]
	for port := range m {
		ports = append(ports, port)
	}
	slices.Sort(ports)
	b := make([]byte, 0, 2*len(few))
	for _, port := range ports {
		b = binary.BigEndian.AppendUint16(b, port)
	}
	return string(b)
}

// classes returns the classes of a known service. The caller holds the read lock; who makes them has the others wait, for it
// takes its time where there are many endpoints.
func (s *Store) classes(e *entry) *classes {
	if b := e.classes.Load(); b != nil {
		return b
	}
	s.sorting.Lock()
	defer s.sorting.Unlock()
	if b := e.classes.Load(); b != nil {
		return b
	}
	b := &classes{byKey: make(map[classKey]int32), where: make([]spot, 0, len(e.members))}
	for pos := range e.members {
		b.add(e, pos)
	}
	b.static = s.ix.staticOf(e)
	for i := range b.static {
		b.put(e.svc, &b.static[i], int32(^i))
	}
	e.classes.Store(b)
	return b
}

// endpoint returns an endpoint by its number.
func (b *classes) endpoint(e *entry, n int32) Endpoint {
	if n < 0 {
		return b.static[^n]
	}
	return e.members[n].endpoint()
}

// put enters an endpoint with a number into its class.
func (b *classes) put(svc *Service, e *Endpoint, n int32) spot {
	key, ok := keyOf(svc, e)
	if !ok {
		return spot{class: -1}
	}
	i, ok := b.byKey[key]
	if !ok {
		i = b.newClass(key)
	}
	c := &b.list[i]
	c.members = append(c.members, n)
	return spot{class: i, pos: int32(len(c.members) - 1)}
}

func (b *classes) newClass(key classKey) (i int32) {
	if n := len(b.free); n > 0 {
		i = b.free[n-1]
		b.free = b.free[:n-1]
		b.list[i].key = key
	} else {
		i = int32(len(b.list))
		b.list = append(b.list, class{key: key})
	}
	b.byKey[key] = i
	return i
}

// add enters the member that the entry has got at pos, its last.
func (b *classes) add(e *entry, pos int) {
	m := e.members[pos].endpoint()
	b.where = append(b.where, b.put(e.svc, &m, int32(pos)))
	b.forget()
}

// update puts the member at pos into the class that it belongs to now.
func (b *classes) update(e *entry, pos int) {
	m := e.members[pos].endpoint()
	key, ok := keyOf(e.svc, &m)
	at := b.where[pos]
	if at.class >= 0 && ok && b.list[at.class].key == key || at.class < 0 && !ok {
		return
	}
	b.take(at)
	b.where[pos] = b.put(e.svc, &m, int32(pos))
	b.forget()
}

// remove takes out the member at pos, before the last one of the entry gets its place.
func (b *classes) remove(pos int) {
	b.take(b.where[pos])
	last := len(b.where) - 1
	moved := b.where[last]
	b.where[pos] = moved
	b.where = b.where[:last]
	if pos != last && moved.class >= 0 {
		b.list[moved.class].members[moved.pos] = int32(pos)
	}
	b.forget()
}

// take removes what is at a spot from its class.
func (b *classes) take(at spot) {
	if at.class < 0 {
		return
	}
	c := &b.list[at.class]
	last := len(c.members) - 1
	moved := c.members[last]
	c.members[at.pos] = moved
	c.members = c.members[:last]
	if moved >= 0 {
		b.where[moved].pos = at.pos
	}
	if last == 0 {
		delete(b.byKey, c.key)
		*c = class{}
		b.free = append(b.free, at.class)
	}
}

// forget drops the selections.
func (b *classes) forget() {
	if b.selected.Load() == 0 {
		return
	}
	b.selected.Store(0)
	for i := range b.selections {
		b.selections[i].Store(nil)
	}
}

// fewClasses is up to how many classes are looked at one by one.
const fewClasses = 8

// choose picks an endpoint. It does not allocate, but after a change of a service with many classes.
func (b *classes) choose(e *entry, c *choice, rnd Rand) (Endpoint, bool) {
	if len(b.list) > fewClasses {
		return b.selection(e, c).choose(b, e, rnd)
	}
	var ranks [fewClasses]int
	best, total := -1, uint64(0)
	for i := range b.list {
		ranks[i] = b.rank(e, c, i)
		switch rank := ranks[i]; {
		case rank < 0 || rank < best:
		case rank > best:
			best, total = rank, b.list[i].weight()
		default:
			total += b.list[i].weight()
		}
	}
	if total == 0 {
		return Endpoint{}, false
	}
	at := rnd.Uint64N(total)
	for i := range b.list {
		if ranks[i] != best {
			continue
		}
		if weight := b.list[i].weight(); at >= weight {
			at -= weight
			continue
		}
		return b.member(e, i, at), true
	}
	return Endpoint{}, false // not reached: the weights add up to total
}

// rank is that of all members of a class, or negative if they cannot be chosen.
func (b *classes) rank(e *entry, c *choice, i int) int {
	members := b.list[i].members
	if len(members) == 0 {
		return -1
	}
	example := b.endpoint(e, members[0])
	if rank, ok := c.rank(example.Workload, example.Ports); ok {
		return rank
	}
	return -1
}

// member returns who has the weight at within a class.
func (b *classes) member(e *entry, i int, at uint64) Endpoint {
	c := &b.list[i]
	return b.endpoint(e, c.members[at/uint64(c.key.capacity)])
}
