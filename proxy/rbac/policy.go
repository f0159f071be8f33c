package rbac

import (
	"net/netip"
	"strconv"
)

// A Scope says to which workloads a policy applies.
type Scope uint8

// The scopes of a policy.
const (
	// Global policies apply to every workload of the mesh, whatever namespace
	// the policy is in.
	Global Scope = iota
	// Namespace policies apply to every workload of their own namespace.
	Namespace
	// WorkloadSelector policies apply to the workloads that name them.
	WorkloadSelector
)

// String returns the spelling of the config dump and of local configuration.
func (s Scope) String() string {
	switch s {
	case Global:
		return "Global"
	case Namespace:
		return "Namespace"
	case WorkloadSelector:
		return "WorkloadSelector"
	}
	return "Scope(" + strconv.Itoa(int(s)) + ")"
}

// An Action is what happens to a connection that a policy matches.
type Action uint8

// The actions of a policy.
const (
	// Allow policies let in what they match. As soon as one applies to a
	// workload, what none of them matches is denied.
	Allow Action = iota
	// Deny policies refuse what they match, before any Allow is asked.
	Deny
)

// String returns the spelling of the config dump and of local configuration.
func (a Action) String() string {
	switch a {
	case Allow:
		return "Allow"
	case Deny:
		return "Deny"
	}
	return "Action(" + strconv.Itoa(int(a)) + ")"
}

// A Policy is one authorization policy. It matches a connection when any of
// its rules does, so one without rules never matches: as an ALLOW policy it
// denies everything, as a DENY policy it has no effect.
//
// A Policy handed to a [Set] must not be changed afterwards.
type Policy struct {
	Name, Namespace string
	Scope           Scope
	Action          Action
	// DryRun policies never change a decision; their matches are logged.
	DryRun bool
	Rules  []Rule
}

// Key returns the name of the policy in the mesh, "namespace/name".
func (p *Policy) Key() string { return p.Namespace + "/" + p.Name }

// A Rule matches when all of its clauses do; one without clauses matches
// everything.
type Rule []Clause

// A Clause matches when any of its matches does; one without matches matches
// everything.
type Clause []Match

// A Match is a conjunction over attributes of a connection. Each non-empty
// list demands that one of its values fits, each non-empty Not list that none
// does. A Match without any value never matches, which is how the control
// plane expresses conditions that cannot be decided at layer 4.
type Match struct {
	// Namespaces is compared with the namespace of the peer's identity, which
	// is the empty string for an unauthenticated peer.
	Namespaces, NotNamespaces []StringMatch
	// ServiceAccounts is compared with the peer's namespace and service
	// account; the trust domain plays no part.
	ServiceAccounts, NotServiceAccounts []ServiceAccountMatch
	// Principals is compared with the peer's identity without its scheme,
	// "td/ns/NS/sa/SA". An unauthenticated peer fits no value.
	Principals, NotPrincipals []StringMatch
	// SourceIPs is compared with the address of the peer's socket. The bits of
	// a prefix beyond its length are ignored.
	SourceIPs, NotSourceIPs []netip.Prefix
	// DestinationIPs is compared with the address the connection goes to.
	DestinationIPs, NotDestinationIPs []netip.Prefix
	// DestinationPorts is compared with the final port, after translation of
	// service ports and application tunnels.
	DestinationPorts, NotDestinationPorts []uint16
	// Broken names the lists that had an element which could not be understood
	// and is therefore missing from them. The policy then fails closed: in an
	// ALLOW policy the whole rule matches nobody, in a DENY policy the broken
	// element fits everybody.
	Broken Fields
}

// A ServiceAccountMatch names one Kubernetes service account.
type ServiceAccountMatch struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

// A StringKind is the way in which a StringMatch compares.
type StringKind uint8

// The kinds of string comparison. All are case-sensitive.
const (
	Exact    StringKind = iota // equal
	Prefix                     // begins with
	Suffix                     // ends with
	Presence                   // not empty
)

// String returns the spelling of the config dump and of local configuration.
func (k StringKind) String() string {
	switch k {
	case Exact:
		return "Exact"
	case Prefix:
		return "Prefix"
	case Suffix:
		return "Suffix"
	case Presence:
		return "Presence"
	}
	return "StringKind(" + strconv.Itoa(int(k)) + ")"
}

// A StringMatch is one pattern. Value is not used by Presence.
type StringMatch struct {
	Kind  StringKind
	Value string
}

// Fields is a set of lists of a [Match].
type Fields uint16

// The lists of a Match. Those of negated conditions follow the positive ones.
const (
	FieldNamespaces Fields = 1 << iota
	FieldServiceAccounts
	FieldPrincipals
	FieldSourceIPs
	FieldDestinationIPs
	FieldDestinationPorts
	FieldNotNamespaces
	FieldNotServiceAccounts
	FieldNotPrincipals
	FieldNotSourceIPs
	FieldNotDestinationIPs
	FieldNotDestinationPorts
)

// fieldNames are the names of the lists in the config dump, in the order of
// their bits.
var fieldNames = [...]string{
	"namespaces", "serviceAccounts", "principals", "sourceIps", "destinationIps", "destinationPorts",
	"notNamespaces", "notServiceAccounts", "notPrincipals", "notSourceIps", "notDestinationIps", "notDestinationPorts",
}

// Names returns the names of the lists as the config dump spells them.
func (f Fields) Names() []string {
	var names []string
	for i, name := range fieldNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}
