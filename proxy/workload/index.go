package workload

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
)

// index holds the tables of a store. It has no lock of its own: the store's guards it. Records and entries never leave the
// package; what readers keep are workloads and services.
type index struct {
	node string
	seq  uint64 // counts stored workloads and services, for "stored last" and "stored first"

	batch    uint32 // counts the lists that were looked at for changes; the writer's alone, as those of records and entries
	collided bool   // a record got an address or name that another one has

	byUID      map[string]*record
	byAddr     addresses[*record]           // the best one of each address
	overlap    map[NetworkAddress][]*record // all of them, for addresses with more than one
	byHostname records[NamespacedHostname]  // workloads that have a hostname
	byInfo     records[Info]                // local workloads
	// touchedLocal is set by every change of those.
	touchedLocal bool

	services map[NamespacedHostname]*entry // known services, and those that only endpoints speak of
	byHost   map[string][]*entry           // known services, in the order of their first storing
	byVIP    addresses[[]*entry]           // the same
	cidrs    map[string]*ranges            // by network
	static   map[string][]*entry           // entries whose static endpoints name this workload
}

// record is a stored workload.
type record struct {
	w    *Workload
	seq  uint64 // when it was stored
	refs []ref  // one for each of w.Services

	batch uint32 // see index
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
	classes   atomic.Pointer[classes]    // made by the first choice, and kept

	batch uint32 // see index
}

// member is one workload among the endpoints of an entry.
type member struct {
	r     *record
	ports PortMap
}

// endpoint is the member in the form in which readers get it.
func (m member) endpoint() Endpoint {
	return Endpoint{Workload: m.r.w, Ports: m.ports, Status: m.r.w.Status}
}

// newIndex returns an empty index with room for so many workloads and services, so that the first batch, which is the
// whole mesh, does not grow its tables step by step.
func newIndex(node string, workloads, services int) *index {
	return &index{
		node:       node,
		byUID:      make(map[string]*record, workloads),
		byAddr:     make(addresses[*record]),
		overlap:    make(map[NetworkAddress][]*record),
		byHostname: make(records[NamespacedHostname]),
		byInfo:     make(records[Info]),
		services:   make(map[NamespacedHostname]*entry, services),
		byHost:     make(map[string][]*entry, services),
		byVIP:      make(addresses[[]*entry]),
		cidrs:      make(map[string]*ranges),
		static:     make(map[string][]*entry),
	}
}

func (ix *index) empty() bool { return len(ix.byUID) == 0 && len(ix.services) == 0 }

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

// add returns whether there are others of this key.
func (t records[K]) add(key K, r *record) (shared bool) {
	t[key] = append(t[key], r)
	return len(t[key]) > 1
}

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

func (w *Workload) hostname() NamespacedHostname {
	return NamespacedHostname{Namespace: w.Namespace, Hostname: w.Hostname}
}

// Info returns the name, namespace and service account.
func (w *Workload) Info() Info {
	return Info{Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
}

// putWorkload stores w in place of any workload with its UID.
func (ix *index) putWorkload(w *Workload) {
	ix.seq++
	r := ix.byUID[w.UID]
	if r == nil {
		r = &record{w: w, seq: ix.seq}
		ix.byUID[w.UID] = r
		ix.linkAddrs(r)
		ix.linkNames(r)
	} else {
		ix.byUID[w.UID] = r // lets go of the former string
		ix.replaceWorkload(r, w)
	}
	ix.join(r)
	ix.touchStatic(w.UID)
}

// replaceWorkload makes w the workload of the record. Most updates change no address, and leave those tables alone.
func (ix *index) replaceWorkload(r *record, w *Workload) {
	stays := r.w.Network == w.Network && r.w.NetworkMode == w.NetworkMode && slices.Equal(r.w.Addrs, w.Addrs)
	if !stays {
		ix.unlinkAddrs(r)
	}
	ix.unlinkNames(r)
	r.w, r.seq = w, ix.seq
	if !stays {
		ix.linkAddrs(r)
	} else if len(ix.overlap) > 0 {
		ix.rerank(r)
	}
	ix.linkNames(r)
}

func (ix *index) removeWorkload(uid string) bool {
	r := ix.byUID[uid]
	if r == nil {
		return false
	}
	ix.unlinkAddrs(r)
	ix.unlinkNames(r)
	for len(r.refs) > 0 {
		ix.leave(r, len(r.refs)-1)
	}
	delete(ix.byUID, uid)
	ix.touchStatic(uid)
	return true
}

// addrs are the addresses by which the record is found.
func (r *record) addrs() iter.Seq[NetworkAddress] {
	return func(yield func(NetworkAddress) bool) {
		if r.w.NetworkMode == HostNetwork {
			return
		}
		for _, addr := range r.w.Addrs {
			if !yield(NetworkAddress{Network: r.w.Network, Addr: addr}) {
				return
			}
		}
	}
}

// linkAddrs enters the record in the tables by address; unlinkAddrs is the reverse, by what is stored.
func (ix *index) linkAddrs(r *record) {
	for key := range r.addrs() {
		ix.linkAddr(key, r)
	}
}

func (ix *index) unlinkAddrs(r *record) {
	for key := range r.addrs() {
		ix.unlinkAddr(key, r)
	}
}

// rerank chooses anew where the record shares an address, for its rank may be another one.
func (ix *index) rerank(r *record) {
	for key := range r.addrs() {
		if list := ix.overlap[key]; list != nil {
			ix.byAddr.put(key, slices.MaxFunc(list, compareRecords))
		}
	}
}

// linkNames enters the record in the tables by name; unlinkNames is the reverse, by what is stored.
func (ix *index) linkNames(r *record) {
	if r.w.Hostname != "" && ix.byHostname.add(r.w.hostname(), r) {
		ix.collided = true
	}
	if !ix.isLocal(r.w) {
		return
	}
	ix.touchedLocal = true
	if ix.byInfo.add(r.w.Info(), r) {
		ix.collided = true
	}
}

func (ix *index) unlinkNames(r *record) {
	if r.w.Hostname != "" {
		removeOne(ix.byHostname, r.w.hostname(), r)
	}
	if ix.isLocal(r.w) {
		ix.touchedLocal = true
		removeOne(ix.byInfo, r.w.Info(), r)
	}
}

func (ix *index) linkAddr(key NetworkAddress, r *record) {
	first := ix.byAddr.get(key)
	if first == nil || first == r {
		ix.byAddr.put(key, r)
		return
	}
	ix.collided = true
	list := ix.overlap[key]
	if list == nil {
		list = []*record{first}
	}
	if !slices.Contains(list, r) {
		list = append(list, r)
	}
	ix.overlap[key] = list
	ix.byAddr.put(key, slices.MaxFunc(list, compareRecords))
}

func (ix *index) unlinkAddr(key NetworkAddress, r *record) {
	list := ix.overlap[key]
	if list == nil {
		if ix.byAddr.get(key) == r {
			ix.byAddr.remove(key)
		}
		return
	}
	list = deleteOne(list, r)
	if len(list) == 1 {
		delete(ix.overlap, key)
		ix.byAddr.put(key, list[0])
		return
	}
	ix.overlap[key] = list
	ix.byAddr.put(key, slices.MaxFunc(list, compareRecords))
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
		m.e.changed(m.pos)
	}
	for key := range r.w.Services {
		if slices.ContainsFunc(stayed, func(m ref) bool { return m.e.key == key }) {
			continue
		}
		e := ix.entry(key)
		r.refs = append(r.refs, ref{e: e, pos: len(e.members)})
		e.members = append(e.members, r.member(key))
		e.changed(len(e.members) - 1)
	}
}

// member is the record in its role as endpoint of a service.
func (r *record) member(key NamespacedHostname) member {
	return member{r: r, ports: r.w.Services[key]}
}

// leave ends the i-th membership of the record: the last member takes its place.
func (ix *index) leave(r *record, i int) {
	e, pos := r.refs[i].e, r.refs[i].pos
	e.leaves(pos)
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
	ix.drop(e)
}

// changed has the lists show that the member at pos is new or another one than before.
func (e *entry) changed(pos int) {
	e.endpoints.Store(nil)
	switch c := e.classes.Load(); {
	case c == nil:
	case len(e.static) > 0: // who goes before whom may be another one
		e.classes.Store(nil)
	case pos == len(c.where):
		c.add(e, pos)
	default:
		c.update(e, pos)
	}
}

// leaves has the lists show that the member at pos is about to leave its place to the last one.
func (e *entry) leaves(pos int) {
	e.endpoints.Store(nil)
	switch c := e.classes.Load(); {
	case c == nil:
	case len(e.static) > 0:
		e.classes.Store(nil)
	default:
		c.remove(pos)
	}
}

// forget has all lists be made anew.
func (e *entry) forget() {
	e.endpoints.Store(nil)
	e.classes.Store(nil)
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
		e.forget()
	}
}

// endpointsOf makes the list of endpoints of a known service.
func (ix *index) endpointsOf(e *entry) []Endpoint {
	list := make([]Endpoint, 0, len(e.members)+len(e.static))
	for i := range e.members {
		if m := e.members[i].endpoint(); e.svc.Accepts(m.Status) {
			list = append(list, m)
		}
	}
	return append(list, ix.staticOf(e)...)
}

// staticOf makes the list of those that are given with a known service.
func (ix *index) staticOf(e *entry) (list []Endpoint) {
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
