package rbac

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"ztunnel/proxy/api/securityapi"
)

// An EnumError says that a policy has an enum value that is not known. There
// is no telling what such a policy means, so it is refused as a whole.
type EnumError struct {
	Key   string // of the policy
	Value int32
}

// Error returns the text of the reference.
func (e *EnumError) Error() string {
	return fmt.Sprintf("%s: decode error: unknown enumeration value %d", e.Key, e.Value)
}

// A BrokenError lists the elements of a policy that could not be understood.
type BrokenError struct {
	Key      string   // of the policy
	Elements []string // what is wrong with each, at most maxReported
	More     int      // how many are not in Elements
}

// maxReported bounds how many broken elements an error names: its text goes to
// the control plane.
const maxReported = 8

// Error names the policy and its broken elements.
func (e *BrokenError) Error() string {
	text := e.Key + ": " + strings.Join(e.Elements, "; ")
	if e.More > 0 {
		text += fmt.Sprintf("; and %d more", e.More)
	}
	return text
}

// FromProto converts a policy of the control plane.
//
// With a *BrokenError it returns the policy too: the resource should be
// refused, but the policy must be put in force, for it fails closed. Its broken
// elements let nobody in and deny everybody whom the rest of their rule covers;
// leaving it out, or keeping an older version, could let in more. With any other
// error, an *EnumError, there is no policy.
func FromProto(a *securityapi.Authorization) (*Policy, error) {
	c := converter{broken: BrokenError{Key: a.GetNamespace() + "/" + a.GetName()}}
	p := &Policy{Name: a.GetName(), Namespace: a.GetNamespace(), DryRun: a.GetDryRun()}
	switch a.GetScope() {
	case securityapi.Scope_GLOBAL:
		p.Scope = Global
	case securityapi.Scope_NAMESPACE:
		p.Scope = Namespace
	case securityapi.Scope_WORKLOAD_SELECTOR:
		p.Scope = WorkloadSelector
	default:
		return nil, &EnumError{p.Key(), int32(a.GetScope())}
	}
	switch a.GetAction() {
	case securityapi.Action_ALLOW:
		p.Action = Allow
	case securityapi.Action_DENY:
		p.Action = Deny
	default:
		return nil, &EnumError{p.Key(), int32(a.GetAction())}
	}
	for _, r := range a.GetRules() {
		rule := make(Rule, 0, len(r.GetClauses()))
		for _, cl := range r.GetClauses() {
			clause := make(Clause, 0, len(cl.GetMatches()))
			for _, m := range cl.GetMatches() {
				clause = append(clause, c.match(m))
			}
			rule = append(rule, clause)
		}
		p.Rules = append(p.Rules, rule)
	}
	if len(c.broken.Elements) > 0 {
		return p, &c.broken
	}
	return p, nil
}

// converter collects what is broken in one policy.
type converter struct{ broken BrokenError }

// report notes a broken element of a list of m.
func (c *converter) report(m *Match, f Fields, err error) {
	m.Broken |= f
	if len(c.broken.Elements) == maxReported {
		c.broken.More++
		return
	}
	c.broken.Elements = append(c.broken.Elements, f.Names()[0]+": "+err.Error())
}

func (c *converter) match(m *securityapi.Match) Match {
	var out Match
	out.Namespaces = convert(c, &out, FieldNamespaces, m.GetNamespaces(), convertString)
	out.NotNamespaces = convert(c, &out, FieldNotNamespaces, m.GetNotNamespaces(), convertString)
	out.Principals = convert(c, &out, FieldPrincipals, m.GetPrincipals(), convertString)
	out.NotPrincipals = convert(c, &out, FieldNotPrincipals, m.GetNotPrincipals(), convertString)
	out.SourceIPs = convert(c, &out, FieldSourceIPs, m.GetSourceIps(), convertPrefix)
	out.NotSourceIPs = convert(c, &out, FieldNotSourceIPs, m.GetNotSourceIps(), convertPrefix)
	out.DestinationIPs = convert(c, &out, FieldDestinationIPs, m.GetDestinationIps(), convertPrefix)
	out.NotDestinationIPs = convert(c, &out, FieldNotDestinationIPs, m.GetNotDestinationIps(), convertPrefix)
	out.DestinationPorts = convert(c, &out, FieldDestinationPorts, m.GetDestinationPorts(), convertPort)
	out.NotDestinationPorts = convert(c, &out, FieldNotDestinationPorts, m.GetNotDestinationPorts(), convertPort)
	out.ServiceAccounts = convert(c, &out, FieldServiceAccounts, m.GetServiceAccounts(), convertAccount)
	out.NotServiceAccounts = convert(c, &out, FieldNotServiceAccounts, m.GetNotServiceAccounts(), convertAccount)
	return out
}

// convert converts one list of a match, without its broken elements.
func convert[From, To any](c *converter, m *Match, f Fields, list []From, one func(From) (To, error)) []To {
	var out []To
	for _, from := range list {
		to, err := one(from)
		if err != nil {
			c.report(m, f, err)
			continue
		}
		out = append(out, to)
	}
	return out
}

var (
	errMatchType  = errors.New("string match without a known type")
	errPortNumber = errors.New("port beyond 65535")
)

func convertString(m *securityapi.StringMatch) (StringMatch, error) {
	switch t := m.GetMatchType().(type) {
	case *securityapi.StringMatch_Exact:
		return StringMatch{Exact, t.Exact}, nil
	case *securityapi.StringMatch_Prefix:
		return StringMatch{Prefix, t.Prefix}, nil
	case *securityapi.StringMatch_Suffix:
		return StringMatch{Suffix, t.Suffix}, nil
	case *securityapi.StringMatch_Presence:
		return StringMatch{Kind: Presence}, nil
	}
	return StringMatch{}, errMatchType
}

func convertPrefix(a *securityapi.Address) (netip.Prefix, error) {
	addr, ok := netip.AddrFromSlice(a.GetAddress())
	if !ok {
		return netip.Prefix{}, fmt.Errorf("address of %d bytes", len(a.GetAddress()))
	}
	if a.GetLength() > uint32(addr.BitLen()) {
		return netip.Prefix{}, fmt.Errorf("prefix length %d of %s", a.GetLength(), addr)
	}
	return netip.PrefixFrom(addr, int(a.GetLength())), nil
}

func convertPort(p uint32) (uint16, error) {
	if p > 1<<16-1 {
		return 0, errPortNumber
	}
	return uint16(p), nil
}

func convertAccount(m *securityapi.ServiceAccountMatch) (ServiceAccountMatch, error) {
	return ServiceAccountMatch{Namespace: m.GetNamespace(), ServiceAccount: m.GetServiceAccount()}, nil
}
