package workload

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// service returns the known service of the key, or nil.
func (ix *index) service(key NamespacedHostname) *Service {
	if e := ix.services[key]; e != nil {
		return e.svc
	}
	return nil
}

// putService stores svc in place of any service with its key. It keeps that one's place in the order of services that
// share an address or hostname.
func (ix *index) putService(svc *Service) {
	e := ix.entry(svc.Key())
	if e.svc != nil {
		ix.unlinkService(e)
	} else {
		ix.seq++
		e.seq = ix.seq
	}
	if e.svc == nil || !e.svc.dividesAs(svc) {
		e.forget()
	}
	e.svc = svc
	ix.linkService(e)
}

// removeService forgets the service and the endpoints that came with it; those that workloads declare remain, in case
// the service comes back.
func (ix *index) removeService(key NamespacedHostname) bool {
	e := ix.services[key]
	if e == nil || e.svc == nil {
		return false
	}
	ix.unlinkService(e)
	e.svc = nil
	e.forget()
	ix.putStatic(key, nil)
	return true
}

// putStatic replaces the endpoints given with a service.
func (ix *index) putStatic(key NamespacedHostname, list []StaticEndpoint) {
	e := ix.entry(key)
	for _, s := range e.static {
		removeOne(ix.static, s.WorkloadUID, e)
	}
	e.static = list
	for _, s := range list {
		ix.static[s.WorkloadUID] = append(ix.static[s.WorkloadUID], e)
	}
	e.forget()
	ix.drop(e)
}

func (ix *index) linkService(e *entry) {
	ix.byHost[e.svc.Hostname] = insertEntry(ix.byHost[e.svc.Hostname], e)
	for _, vip := range e.svc.VIPs {
		ix.byVIP.put(vip, insertEntry(ix.byVIP.get(vip), e))
	}
	for _, c := range e.svc.CIDRVIPs {
		r := ix.cidrs[c.Network]
		if r == nil {
			r = &ranges{entries: make(map[netip.Prefix][]*entry)}
			ix.cidrs[c.Network] = r
		}
		r.add(c.Prefix.Masked(), e)
	}
}

func (ix *index) unlinkService(e *entry) {
	removeOne(ix.byHost, e.svc.Hostname, e)
	for _, vip := range e.svc.VIPs {
		if list := deleteOne(ix.byVIP.get(vip), e); len(list) > 0 {
			ix.byVIP.put(vip, list)
		} else {
			ix.byVIP.remove(vip)
		}
	}
	for _, c := range e.svc.CIDRVIPs {
		r := ix.cidrs[c.Network]
		if r == nil {
			continue // a range that the service names twice
		}
		r.remove(c.Prefix.Masked(), e)
		if len(r.entries) == 0 {
			delete(ix.cidrs, c.Network)
		}
	}
}

// insertEntry adds e once, in the order in which services became known.
func insertEntry(list []*entry, e *entry) []*entry {
	i, found := slices.BinarySearchFunc(list, e, func(a, b *entry) int { return cmp.Compare(a.seq, b.seq) })
	if found {
		return list
	}
	return slices.Insert(list, i, e)
}

// ranges are the address ranges of one network. A lookup tries the prefix lengths in use: in practice a handful.
type ranges struct {
	entries map[netip.Prefix][]*entry // by masked prefix
	v4, v6  []prefixLength            // longest first
}

// prefixLength counts the prefixes of one length.
type prefixLength struct {
	bits, prefixes int
}

func (r *ranges) lengths(addr netip.Addr) *[]prefixLength {
	if addr.Is4() {
		return &r.v4
	}
	return &r.v6
}

func findLength(list []prefixLength, bits int) (int, bool) {
	return slices.BinarySearchFunc(list, bits, func(l prefixLength, bits int) int { return cmp.Compare(bits, l.bits) })
}

func (r *ranges) add(p netip.Prefix, e *entry) {
	if _, ok := r.entries[p]; !ok {
		list := r.lengths(p.Addr())
		i, found := findLength(*list, p.Bits())
		if !found {
			*list = slices.Insert(*list, i, prefixLength{bits: p.Bits()})
		}
		(*list)[i].prefixes++
	}
	r.entries[p] = insertEntry(r.entries[p], e)
}

func (r *ranges) remove(p netip.Prefix, e *entry) {
	if _, ok := r.entries[p]; !ok {
		return
	}
	removeOne(r.entries, p, e)
	if _, ok := r.entries[p]; ok {
		return
	}
	list := r.lengths(p.Addr())
	i, _ := findLength(*list, p.Bits())
	(*list)[i].prefixes--
	if (*list)[i].prefixes == 0 {
		*list = slices.Delete(*list, i, i+1)
	}
}

// isUID reports whether a name that was split at its first slash is that of a workload: hostnames have no slash.
func isUID(key NamespacedHostname) bool { return strings.Contains(key.Hostname, "/") }
