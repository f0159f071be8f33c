package workload

import (
	"context"
	"net/netip"
)

// Demand gets what a store does not have yet, where the control plane tells
// only what it is asked for. Its methods return when the store has it or will
// not have it; they never wait without a bound. It is asked before a lookup,
// and costs nothing where everything is known anyway.
type Demand interface {
	// NeedAddress asks for the workload or service with an address.
	NeedAddress(ctx context.Context, network string, addr netip.Addr)
	// NeedHostname asks for the service or workload with a hostname.
	NeedHostname(ctx context.Context, name NamespacedHostname)
}
