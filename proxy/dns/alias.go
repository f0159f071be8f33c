package dns

import "strings"

// alias is one of the names that a client may mean by the name that it asks
// for: the first labels of that name, and what is put behind them.
type alias struct {
	labels   int
	suffix   string // with a dot in front; empty for none
	stripped int    // how many labels a search domain has left; 0: the name is taken as it was asked for
}

// domains are the names behind which a client's short names stand.
type domains struct {
	cluster    string   // .cluster.local
	services   string   // .svc.cluster.local
	namespaced string   // .NAMESPACE.svc.cluster.local
	search     []string // of the client's resolver, without a dot in front; nil: that of Kubernetes
}

// newDomains returns the domains of a client. Without a search list of its own it
// has that of Kubernetes.
func newDomains(cluster, namespace string, search []string) domains {
	full := "." + namespace + ".svc." + cluster // the others are parts of it, as a node has one for every pod
	d := domains{namespaced: full, services: full[1+len(namespace):], cluster: full[len(full)-len(cluster)-1:]}
	if search != nil {
		d.search = []string{}
	}
	for _, domain := range search {
		d.search = append(d.search, strings.ToLower(strings.TrimSuffix(domain, ".")))
	}
	return d
}

// searched calls yield with the domains that a client's resolver puts behind
// names, in its order, until it returns false.
func (d *domains) searched(yield func(domain string) bool) {
	if d.search == nil {
		_ = yield(d.namespaced[1:]) && yield(d.services[1:]) && yield(d.cluster[1:])
		return
	}
	for _, domain := range d.search {
		if !yield(domain) {
			return
		}
	}
}

// each calls yield with the aliases of a name until it returns false, the likely
// ones first. An alias may come twice, under two search domains: what was not
// found once is not found again.
func (d *domains) each(n *name, yield func(alias) bool) {
	all := n.labels()
	if all == 0 || !yield(alias{labels: all}) || !d.expand(n, all, 0, yield) {
		return
	}
	for domain := range d.searched {
		left := n.trim(domain)
		if left == 0 {
			continue
		}
		if !yield(alias{labels: left, stripped: left}) || !d.expand(n, left, left, yield) {
			return
		}
	}
}

// expand yields the full names of Kubernetes services that the first k labels may
// stand for. It returns false when yield did.
func (d *domains) expand(n *name, k, stripped int, yield func(alias) bool) bool {
	service := k > 1 && string(n.label(k-1)) == "svc"
	switch k {
	case 1:
		return yield(alias{k, d.namespaced, stripped})
	case 2:
		return yield(alias{k, d.services, stripped}) && yield(alias{k, d.namespaced, stripped})
	case 3:
		return (!service || yield(alias{k, d.cluster, stripped})) && yield(alias{k, d.services, stripped})
	case 4:
		return !service || yield(alias{k, d.cluster, stripped})
	}
	return true
}

// candidates calls yield with the hostnames under which services match a name,
// until it returns false: the name itself, and wildcards, the narrow ones first.
// wildcard tells which. host is the memory of the candidate, which the call
// changes; it returns it with what it has grown to.
func candidates(host, text []byte, suffix string, yield func(host []byte, wildcard bool) bool) []byte {
	host = append(append(host[:0], text...), suffix...)
	if !yield(host, false) {
		return host
	}
	for at := 0; at < len(host); at++ {
		switch host[at] {
		case '\\':
			at++ // what is behind it is no separator
		case '.':
			// The end of the label in front is not needed any more.
			host[at-1] = '*'
			if !yield(host[at-1:], true) {
				return host
			}
		}
	}
	return host
}
