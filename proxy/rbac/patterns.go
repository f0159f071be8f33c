package rbac

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// stringSet is a list of patterns of which any may fit. Exact values are kept
// apart, so that a list of thousands of principals costs one look-up. A nil
// set fits nothing.
type stringSet struct {
	exact    map[string]struct{}
	patterns []StringMatch // prefixes and suffixes
	presence bool
}

// newStringSet returns nil for an empty list.
func newStringSet(list []StringMatch) *stringSet {
	if len(list) == 0 {
		return nil
	}
	s := &stringSet{}
	for _, m := range list {
		switch m.Kind {
		case Exact:
			if s.exact == nil {
				s.exact = make(map[string]struct{})
			}
			s.exact[m.Value] = struct{}{}
		case Presence:
			s.presence = true
		default:
			s.patterns = append(s.patterns, m)
		}
	}
	return s
}

// matchString is matchBytes for what is not asked for each connection: it may
// allocate.
func (s *stringSet) matchString(v string) bool { return s.matchBytes([]byte(v)) }

// matchBytes reports whether any pattern fits v. None of its conversions
// allocates.
func (s *stringSet) matchBytes(v []byte) bool {
	if s == nil {
		return false
	}
	if s.presence && len(v) > 0 {
		return true
	}
	if _, ok := s.exact[string(v)]; ok {
		return true
	}
	for i := range s.patterns {
		if s.patterns[i].fits(v) {
			return true
		}
	}
	return false
}

// fits reports whether v begins or ends as m demands.
func (m *StringMatch) fits(v []byte) bool {
	n := len(m.Value)
	if len(v) < n {
		return false
	}
	if m.Kind == Prefix {
		return string(v[:n]) == m.Value
	}
	return m.Kind == Suffix && string(v[len(v)-n:]) == m.Value
}

// prefixSet is a list of address ranges. A long list costs one look-up per
// distinct prefix length instead of one comparison per range. A nil set
// contains nothing.
type prefixSet struct {
	list    []netip.Prefix // short lists
	byRange map[netip.Prefix]struct{}
	v4, v6  []int // the prefix lengths in byRange
}

// linearPrefixes is how many ranges are compared one by one; from about here
// on the maps are faster.
const linearPrefixes = 16

// newPrefixSet returns nil for an empty list.
func newPrefixSet(list []netip.Prefix) *prefixSet {
	if len(list) == 0 {
		return nil
	}
	if len(list) <= linearPrefixes {
		return &prefixSet{list: list}
	}
	s := &prefixSet{byRange: make(map[netip.Prefix]struct{}, len(list))}
	for _, p := range list {
		s.byRange[p.Masked()] = struct{}{}
		lengths := &s.v6
		if p.Addr().Is4() {
			lengths = &s.v4
		}
		if !slices.Contains(*lengths, p.Bits()) {
			*lengths = append(*lengths, p.Bits())
		}
	}
	return s
}

// contains reports whether any range of a's family contains a.
func (s *prefixSet) contains(a netip.Addr) bool {
	if s == nil {
		return false
	}
	for i := range s.list {
		if s.list[i].Contains(a) {
			return true
		}
	}
	lengths := s.v6
	if a.Is4() {
		lengths = s.v4
	}
	for _, bits := range lengths {
		p, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		if _, ok := s.byRange[p]; ok {
			return true
		}
	}
	return false
}

// Principals is a list of principal patterns as the settings and the scopes of
// the telemetry surface have them. The zero value matches nobody. It is
// immutable.
type Principals struct{ set *stringSet }

// ParsePrincipals reads patterns in the form of an AuthorizationPolicy: a
// principal without its scheme ("td/ns/NS/sa/SA"), "prefix*", "*suffix", or
// "*" for every authenticated peer. The error names the pattern that can never
// match: an empty one, one with the scheme, or one with a star inside.
func ParsePrincipals(list []string) (Principals, error) {
	matches := make([]StringMatch, 0, len(list))
	for _, s := range list {
		m, err := parsePrincipal(s)
		if err != nil {
			return Principals{}, fmt.Errorf("parse principal %q: %w", s, err)
		}
		matches = append(matches, m)
	}
	return Principals{set: newStringSet(matches)}, nil
}

func parsePrincipal(s string) (StringMatch, error) {
	var m StringMatch
	switch {
	case s == "":
		return m, errEmptyPrincipal
	case strings.HasPrefix(s, "spiffe://"):
		return m, errPrincipalScheme
	case s == "*":
		return StringMatch{Kind: Presence}, nil
	case s[0] == '*':
		m = StringMatch{Kind: Suffix, Value: s[1:]}
	case s[len(s)-1] == '*':
		m = StringMatch{Kind: Prefix, Value: s[:len(s)-1]}
	default:
		m = StringMatch{Kind: Exact, Value: s}
	}
	if strings.Contains(m.Value, "*") {
		return m, errPrincipalStar
	}
	return m, nil
}

// IsEmpty reports whether p has no pattern at all.
func (p Principals) IsEmpty() bool { return p.set == nil }

// Match reports whether principal, in the form "td/ns/NS/sa/SA", fits any
// pattern. The empty string, which stands for an unauthenticated peer, fits
// none.
func (p Principals) Match(principal string) bool {
	return principal != "" && p.set.matchString(principal)
}
