package identity

import (
	"context"

	"ztunnel/proxy/spiffe"
)

// CA signs certificates of workloads. Each call makes a fresh key. Sign must return soon after ctx ends; the Manager calls
// it from several goroutines at once. Its errors are shown to operators as the reason why an identity is unavailable, and
// should be of the types in this package.
type CA interface {
	Sign(ctx context.Context, id spiffe.ID) (*Certificate, error)
}
