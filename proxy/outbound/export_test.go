package outbound

import "ztunnel/proxy/socket"

// The times of clientWatch.
const (
	FirstLook = firstLook
	NextLook  = nextLook
)

// NewNetworkPolicyError is the error of a dial that timed out.
func NewNetworkPolicyError() error { return &networkPolicyError{socket.ErrTimeout} }
