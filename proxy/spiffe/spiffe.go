// Package spiffe owns the identity of a mesh workload in its SPIFFE form: parsing it, formatting it and using it as a
// map key. It knows nothing of certificates, policies or workloads; those packages call it.
package spiffe

import (
	"encoding"
	"fmt"
	"strings"
)

// DefaultTrustDomain is the trust domain that Istio leaves out on the wire: an empty one in a workload means this.
const DefaultTrustDomain = "cluster.local"

// DefaultServiceAccount is the service account that an empty one in a workload means.
const DefaultServiceAccount = "default"

const scheme = "spiffe://"

// ID is the identity of a workload: spiffe://TrustDomain/ns/Namespace/sa/ServiceAccount. It is comparable (byte by byte,
// no case folding) and may be a map key. The parts are not validated: Istio passes dots, underscores, upper case and even
// spaces through unchanged, and so do we. The zero ID is no identity.
type ID struct {
	TrustDomain    string
	Namespace      string
	ServiceAccount string
}

var (
	_ encoding.TextMarshaler   = ID{}
	_ encoding.TextAppender    = ID{}
	_ encoding.TextUnmarshaler = (*ID)(nil)
)

// ParseError says that a string is no workload identity. Its text is that of the reference.
type ParseError struct {
	Input string // what was to be parsed
}

// Error returns "invalid spiffe identity: " and the input.
func (e *ParseError) Error() string { return "invalid spiffe identity: " + e.Input }

// Parse reads the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT. The scheme is case-sensitive; exactly five
// path parts are required, each of which may be empty. It splits the string instead of using net/url, which would change
// characters that Istio keeps. The error is a *ParseError.
func Parse(s string) (ID, error) {
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok {
		return ID{}, &ParseError{Input: s}
	}
	td, rest, ok1 := strings.Cut(rest, "/")
	ns, rest, ok2 := strings.Cut(rest, "/")
	namespace, rest, ok3 := strings.Cut(rest, "/")
	sa, account, ok4 := strings.Cut(rest, "/")
	if !ok1 || !ok2 || !ok3 || !ok4 || ns != "ns" || sa != "sa" || strings.Contains(account, "/") {
		return ID{}, &ParseError{Input: s}
	}
	return ID{TrustDomain: td, Namespace: namespace, ServiceAccount: account}, nil
}

// IsZero reports whether id is the zero ID, which is used for "no identity".
func (id ID) IsZero() bool { return id == ID{} }

// String returns the full form, spiffe://td/ns/NAMESPACE/sa/SERVICE-ACCOUNT, also for the zero ID.
func (id ID) String() string {
	return scheme + id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}

// Principal returns the full form without the scheme: what authorization policies compare with.
func (id ID) Principal() string {
	return id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}

// AppendPrincipal appends what Principal returns to b.
func (id ID) AppendPrincipal(b []byte) []byte {
	b = append(append(b, id.TrustDomain...), "/ns/"...)
	b = append(append(b, id.Namespace...), "/sa/"...)
	return append(b, id.ServiceAccount...)
}

// AppendText appends the full form to b. The error is always nil.
func (id ID) AppendText(b []byte) ([]byte, error) {
	return id.AppendPrincipal(append(b, scheme...)), nil
}

// MarshalText returns the full form. The error is always nil.
func (id ID) MarshalText() ([]byte, error) {
	return id.AppendText(make([]byte, 0, len(scheme)+len(id.TrustDomain)+len(id.Namespace)+len(id.ServiceAccount)+8))
}

// UnmarshalText is Parse; on an error id is unchanged.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return fmt.Errorf("unmarshal identity: %w", err)
	}
	*id = parsed
	return nil
}
