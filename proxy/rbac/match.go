package rbac

import (
	"net/netip"
	"slices"

	"ztunnel/proxy/spiffe"
)

// A Connection is what a decision is made about.
type Connection struct {
	// Src is the peer's socket address and Dst the final destination: the
	// pod's address with the port after all translation, or the original
	// destination of plaintext. Both are canonical (no IPv4-mapped IPv6).
	Src, Dst netip.AddrPort
	// DstNetwork is the network of Dst. It is kept for logs and comparisons of
	// connections; no policy looks at it.
	DstNetwork string
	// Identity is the peer's identity as its certificate states it. It counts
	// only if HasIdentity is set.
	Identity    spiffe.ID
	HasIdentity bool
}

// subject is a Connection prepared for matching. It lives on the stack of
// Authorize.
type subject struct {
	authenticated bool
	principal     []byte // "td/ns/NS/sa/SA", empty without an identity
	namespace     []byte // a part of principal
	account       ServiceAccountMatch
	src, dst      netip.Addr
	port          uint16
}

// prepare returns the subject of c. The principal is built in buf as far as it
// fits. (A method that filled a subject would make buf escape to the heap.)
func prepare(c *Connection, buf []byte) subject {
	s := subject{
		// A zone would keep every prefix from matching, also those of a DENY.
		src:  c.Src.Addr().WithZone(""),
		dst:  c.Dst.Addr().WithZone(""),
		port: c.Dst.Port(),
	}
	if c.HasIdentity {
		id := &c.Identity
		s.authenticated = true
		s.account = ServiceAccountMatch{Namespace: id.Namespace, ServiceAccount: id.ServiceAccount}
		s.principal = id.AppendPrincipal(buf[:0])
		s.namespace = s.principal[len(id.TrustDomain)+len("/ns/"):][:len(id.Namespace)]
	}
	return s
}

// compiled is a policy prepared for matching.
type compiled struct {
	policy *Policy
	key    string
	deny   *DenyError // what a match of this policy costs, if it is a DENY
	rules  [][][]predicate
}

// predicate is one Match. Each positive list is nil when it does not
// constrain.
type predicate struct {
	empty                     bool // no constraint at all: never matches
	accounts, notAccounts     []ServiceAccountMatch
	namespaces, notNamespaces *stringSet
	principals, notPrincipals *stringSet
	src, notSrc, dst, notDst  *prefixSet
	ports, notPorts           []uint16
}

// compile prepares p. Rules with broken elements are decided here: those of an
// ALLOW policy are left out, those of a DENY policy lose the constraints that
// a broken element may have fitted.
func compile(p *Policy) *compiled {
	c := &compiled{policy: p, key: p.Key()}
	c.deny = &DenyError{Policy: c.key}
	for _, rule := range p.Rules {
		if p.Action == Allow && ruleBroken(rule) {
			continue
		}
		clauses := make([][]predicate, len(rule))
		for i, clause := range rule {
			clauses[i] = make([]predicate, len(clause))
			for j := range clause {
				clauses[i][j] = compileMatch(&clause[j])
			}
		}
		c.rules = append(c.rules, clauses)
	}
	return c
}

func ruleBroken(r Rule) bool {
	return slices.ContainsFunc(r, func(c Clause) bool {
		return slices.ContainsFunc(c, func(m Match) bool { return m.Broken != 0 })
	})
}

// compileMatch prepares a match of a DENY policy, or one without broken
// elements.
func compileMatch(m *Match) predicate {
	broken := func(f Fields) bool { return m.Broken&f != 0 }
	p := predicate{
		empty:         m.isEmpty(),
		notAccounts:   m.NotServiceAccounts,
		notNamespaces: newStringSet(m.NotNamespaces),
		notPrincipals: newStringSet(m.NotPrincipals),
		notSrc:        newPrefixSet(m.NotSourceIPs),
		notDst:        newPrefixSet(m.NotDestinationIPs),
		notPorts:      m.NotDestinationPorts,
	}
	if !broken(FieldServiceAccounts) {
		p.accounts = m.ServiceAccounts
	}
	if !broken(FieldNamespaces) {
		p.namespaces = newStringSet(m.Namespaces)
	}
	if !broken(FieldPrincipals) {
		p.principals = newStringSet(m.Principals)
	}
	if !broken(FieldSourceIPs) {
		p.src = newPrefixSet(m.SourceIPs)
	}
	if !broken(FieldDestinationIPs) {
		p.dst = newPrefixSet(m.DestinationIPs)
	}
	if !broken(FieldDestinationPorts) {
		p.ports = m.DestinationPorts
	}
	return p
}

// isEmpty reports whether m has no value in any list, broken ones included.
func (m *Match) isEmpty() bool {
	return m.Broken == 0 &&
		len(m.Namespaces)+len(m.NotNamespaces)+len(m.ServiceAccounts)+len(m.NotServiceAccounts)+
			len(m.Principals)+len(m.NotPrincipals)+len(m.SourceIPs)+len(m.NotSourceIPs)+
			len(m.DestinationIPs)+len(m.NotDestinationIPs)+len(m.DestinationPorts)+len(m.NotDestinationPorts) == 0
}

// matches reports whether any rule of the policy matches.
func (c *compiled) matches(s *subject) bool {
	for _, rule := range c.rules {
		if ruleMatches(rule, s) {
			return true
		}
	}
	return false
}

func ruleMatches(rule [][]predicate, s *subject) bool {
	for _, clause := range rule {
		if !clauseMatches(clause, s) {
			return false
		}
	}
	return true
}

func clauseMatches(clause []predicate, s *subject) bool {
	for i := range clause {
		if clause[i].matches(s) {
			return true
		}
	}
	return len(clause) == 0
}

// matches reports whether all constraints hold, the cheapest first.
func (p *predicate) matches(s *subject) bool {
	switch {
	case p.empty:
		return false
	case len(p.ports) > 0 && !slices.Contains(p.ports, s.port),
		slices.Contains(p.notPorts, s.port):
		return false
	case len(p.accounts) > 0 && (!s.authenticated || !slices.Contains(p.accounts, s.account)),
		s.authenticated && slices.Contains(p.notAccounts, s.account):
		return false
	case p.principals != nil && (!s.authenticated || !p.principals.matchBytes(s.principal)),
		s.authenticated && p.notPrincipals.matchBytes(s.principal):
		return false
	case p.namespaces != nil && !p.namespaces.matchBytes(s.namespace),
		p.notNamespaces.matchBytes(s.namespace):
		return false
	case p.src != nil && !p.src.contains(s.src), p.notSrc.contains(s.src):
		return false
	case p.dst != nil && !p.dst.contains(s.dst), p.notDst.contains(s.dst):
		return false
	}
	return true
}
