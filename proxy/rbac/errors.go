package rbac

import "errors"

var (
	errEmptyPrincipal  = errors.New("is empty")
	errPrincipalScheme = errors.New("must be written without spiffe://")
	errPrincipalStar   = errors.New("may have a star only at its beginning or its end")
)

// A DenyError says why a connection was not allowed. Its text is that of the
// access log; callers give it the failure flag DENY.
type DenyError struct {
	// Policy is the key of the DENY policy that matched. It is empty if ALLOW
	// policies apply and none of them matched.
	Policy string
}

// errNotAllowed is the one DenyError without a policy.
var errNotAllowed = &DenyError{}

// Error returns the text that the reference logs.
func (e *DenyError) Error() string {
	const rejected = "connection closed due to policy rejection: "
	if e.Policy == "" {
		return rejected + "allow policies exist, but none allowed"
	}
	return rejected + "explicitly denied by: " + e.Policy
}
