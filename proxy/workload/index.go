package workload

import (
	"cmp"
	"slices"
	"strings"
	"sync/atomic"
)

// index holds the tables of a store. It has no lock of its own: the store's guards it. Records and entries never leave the
// package; what readers keep are workloads and services.
type index struct {
	node string
	seq  uint64 // counts stored workloads and services, for "stored last" and "stored first"

	byUID      map[string]*record
	byAddr     map[NetworkAddress]*record   // the best one of each address
	overlap    map[NetworkAddress][]*record // all of them, for addresses with more than one
	byHostname records[NamespacedHostname]  // workloads that have a hostname
	byInfo     records[Info]                // local workloads

	services map[NamespacedHostname]*entry // known services, and those that only endpoints speak of
	byHost   map[string][]*entry           // known services, in the order of their first storing
	byVIP    map[NetworkAddress][]*entry   // the same
	cidrs    map[string]*ranges            // by network
	static   map[string][]*entry           // entries whose static endpoints name this workload
}

// record is a stored workload.
type record struct {
	w    *Workload
	seq  uint64 // when it was stored
	refs []ref  // one for each of w.Services
}

// ref says where a record stands among the members of an entry.
type ref struct {
	e   *entry
	pos int
}

// entry is a service, known or not, and the workloads that say they are its endpoints. Endpoints are derived from
// workloads alone, so they survive whatever happens to the service, and health is judged when the list is made.
type entry struct {
	key       NamespacedHostname
	svc       *Service // nil while it is not known
	seq       uint64   // when it became known
	members   []member
	static    []StaticEndpoint
	endpoints atomic.Pointer[[]Endpoint] // made by the first reader after a change
}

// member is one workload among the endpoints of an entry, in the form in which readers get it.
type member struct {
	Endpoint
	r *record
}

func newIndex(node string) *index {
	return &index{
		node:       node,
		byUID:      make(map[string]*record),
		byAddr:     make(map[NetworkAddress]*record),
		overlap:    make(map[NetworkAddress][]*record),
		byHostname: make(records[NamespacedHostname]),
		byInfo:     make(records[Info]),
		services:   make(map[NamespacedHostname]*entry),
		byHost:     make(map[string][]*entry),
		byVIP:      make(map[NetworkAddress][]*entry),
		cidrs:      make(map[string]*ranges),
		static:     make(map[string][]*entry),
	}
}

func (r *record) workload() *Workload {
	if r == nil {
		return nil
	}
	return r.w
}

// rank orders workloads that share an address: pods before others, then HBONE before TCP.
func (r *record) rank() int {
	rank := 0
	if strings.Contains(r.w.UID, "//Pod/") {
		rank = 2
	}
	if r.w.Protocol == HBONE {
		rank++
	}
	return rank
}

// compareRecords is positive if a is to be preferred to b.
func compareRecords(a, b *record) int {
	return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.seq, b.seq))
}

// records is a table with rarely more than one record to a key.
type records[K comparable] map[K][]*record

func (t records[K]) best(key K) *record {
	list := t[key]
	if len(list) == 0 {
		return nil
	}
	return slices.MaxFunc(list, compareRecords)
}

func (t records[K]) add(key K, r *record) { t[key] = append(t[key], r) }

// removeOne removes the first v of a key, and the key with its last value.
func removeOne[K, V comparable](table map[K][]V, key K, v V) {
	list := deleteOne(table[key], v)
	if len(list) == 0 {
		delete(table, key)
		return
	}
	table[key] = list
}

// deleteOne removes the first v and keeps the order.
func deleteOne[T comparable](list []T, v T) []T {
	if i := slices.Index(list, v); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}

func (ix *index) local(info Info) *Workload { return ix.byInfo.best(info).workload() }

func (ix *index) isLocal(w *Workload) bool { return ix.node == "" || ix.node == w.Node }

func (w *Workload) info() Info {
	return Info{Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
}

// putWorkload stores w in place of any workload with its UID.
func (ix *index) putWorkload(w *Workload) {
	r := ix.byUID[w.UID]
	if r == nil {
		r = &record{}
		ix.byUID[w.UID] = r
	} else {
		ix.unlink(r)
	}
	ix.seq++
	r.w, r.seq = w, ix.seq
	ix.link(r)
	ix.join(r)
	ix.touchStatic(w.UID)
}

func (ix *index) removeWorkload(uid string) bool {
	r := ix.byUID[uid]
	if r == nil {
		return false
	}
	ix.unlink(r)
	for len(r.refs) > 0 {
		ix.leave(r, len(r.refs)-1)
	}
	delete(ix.byUID, uid)
	ix.touchStatic(uid)
	return true
}

// link enters the record in the tables that find workloads; unlink is the reverse, by what is stored.
func (ix *index) link(r *record) {
	if r.w.NetworkMode != HostNetwork {
		for _, addr := range r.w.Addrs {
			ix.linkAddr(NetworkAddress{Network: r.w.Network, Addr: addr}, r)
		}
	}
	if r.w.Hostname != "" {
		ix.byHostname.add(NamespacedHostname{Namespace: r.w.Namespace, Hostname: r.w.Hostname}, r)
	}
	if ix.isLocal(r.w) {
		ix.byInfo.add(r.w.info(), r)
	}
}

func (ix *index) unlink(r *record) {
	if r.w.NetworkMode != HostNetwork {
		for _, addr := range r.w.Addrs {
			ix.unlinkAddr(NetworkAddress{Network: r.w.Network, Addr: addr}, r)
		}
	}
	if r.w.Hostname != "" {
		removeOne(ix.byHostname, NamespacedHostname{Namespace: r.w.Namespace, Hostname: r.w.Hostname}, r)
	}
	if ix.isLocal(r.w) {
		removeOne(ix.byInfo, r.w.info(), r)
	}
}

func (ix *index) linkAddr(key NetworkAddress, r *record) {
	first := ix.byAddr[key]
	if first == nil || first == r {
		ix.byAddr[key] = r
		return
	}
	list := ix.overlap[key]
	if list == nil {
		list = []*record{first}
	}
	if !slices.Contains(list, r) {
		list = append(list, r)
	}
	ix.overlap[key] = list
	ix.byAddr[key] = slices.MaxFunc(list, compareRecords)
}

func (ix *index) unlinkAddr(key NetworkAddress, r *record) {
	list := ix.overlap[key]
	if list == nil {
		if ix.byAddr[key] == r {
			delete(ix.byAddr, key)
		}
		return
	}
	list = deleteOne(list, r)
	if len(list) == 1 {
		delete(ix.overlap, key)
		ix.byAddr[key] = list[0]
		return
	}
	ix.overlap[key] = list
	ix.byAddr[key] = slices.MaxFunc(list, compareRecords)
}

// join brings the record's memberships in line with the services of its workload.
func (ix *index) join(r *record) {
	for i, ref := range slices.Backward(r.refs) {
		if _, stays := r.w.Services[ref.e.key]; !stays {
			ix.leave(r, i)
		}
	}
	stayed := r.refs
	for _, m := range stayed {
		m.e.members[m.pos] = r.member(m.e.key)
		m.e.endpoints.Store(nil)
	}
	for key := range r.w.Services {
		if slices.ContainsFunc(stayed, func(m ref) bool { return m.e.key == key }) {
			continue
		}
		e := ix.entry(key)
		r.refs = append(r.refs, ref{e: e, pos: len(e.members)})
		e.members = append(e.members, r.member(key))
		e.endpoints.Store(nil)
	}
}

// member is the record in its role as endpoint of a service.
func (r *record) member(key NamespacedHostname) member {
	return member{Endpoint: Endpoint{Workload: r.w, Ports: r.w.Services[key], Status: r.w.Status}, r: r}
}

// leave ends the i-th membership of the record: the last member takes its place.
func (ix *index) leave(r *record, i int) {
	e, pos := r.refs[i].e, r.refs[i].pos
	last := len(e.members) - 1
	moved := e.members[last]
	e.members[pos] = moved
	e.members[last] = member{}
	e.members = e.members[:last]
	for j := range moved.r.refs {
		if moved.r.refs[j].e == e {
			moved.r.refs[j].pos = pos
		}
	}
	r.refs = slices.Delete(r.refs, i, i+1)
	e.endpoints.Store(nil)
	ix.drop(e)
}

// entry returns the entry of the key, made if need be.
func (ix *index) entry(key NamespacedHostname) *entry {
	e := ix.services[key]
	if e == nil {
		e = &entry{key: key}
		ix.services[key] = e
	}
	return e
}

// drop forgets an entry of which nothing is left.
func (ix *index) drop(e *entry) {
	if e.svc == nil && len(e.members) == 0 && len(e.static) == 0 {
		delete(ix.services, e.key)
	}
}

// touchStatic makes the lists that were made with a workload named by a static endpoint be made anew.
func (ix *index) touchStatic(uid string) {
	for _, e := range ix.static[uid] {
		e.endpoints.Store(nil)
	}
}

// endpointsOf makes the list of endpoints of a known service.
func (ix *index) endpointsOf(e *entry) []Endpoint {
	list := make([]Endpoint, 0, len(e.members)+len(e.static))
	for i := range e.members {
		if m := &e.members[i]; e.svc.Accepts(m.Status) {
			list = append(list, m.Endpoint)
		}
	}
	for _, s := range e.static {
		w := ix.byUID[s.WorkloadUID].workload()
		if w != nil && e.svc.Accepts(s.Status) && !ix.declares(s.Key, e.key) {
			list = append(list, Endpoint{Workload: w, Ports: s.Ports, Status: s.Status})
		}
	}
	return list
}

// declares reports whether the workload of this UID says by itself that it is an endpoint of the service.
func (ix *index) declares(uid string, key NamespacedHostname) bool {
	r := ix.byUID[uid]
	if r == nil {
		return false
	}
	_, ok := r.w.Services[key]
	return ok
}
