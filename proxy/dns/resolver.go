package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"ztunnel/telemetry/connection"
)

// ResolverConfig is what a Resolver is made of.
type ResolverConfig struct {
	Upstreams Upstreams
	Search    []string // domains to put behind names
	NDots     int      // dots with which a name is tried without a domain first; zero means one
}

// Resolver looks up the hostnames of workloads that have no address. It has
// nothing to do with the names of the mesh. One serves the whole process; its
// methods may be called concurrently.
type Resolver struct {
	forwarder *forwarder
	search    []string
	ndots     int
	waiting   chan struct{} // holds a token for each question that waits for its answer
	counts    onDemand
}

// NewResolver returns a resolver. It has no sockets but those of the questions
// that wait for an answer.
func NewResolver(c ResolverConfig) *Resolver {
	return &Resolver{
		forwarder: newForwarder(&c.Upstreams, nil), search: c.Search, ndots: max(c.NDots, 1),
		waiting: make(chan struct{}, maxOutstanding),
	}
}

// Count counts a lookup that a connection of the workload needs.
func (r *Resolver) Count(source *connection.Workload, host string) { r.counts.count(source, host) }

// LookupNetIP returns the addresses of a host, at least one, in the manner of
// [net.Resolver]: network is "ip" for both families, "ip4" or "ip6" for one. The
// error of a name that does not exist, or has no address, is a *net.DNSError.
func (r *Resolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	families := map[string][]bool{"ip": {false, true}, "ip4": {false}, "ip6": {true}}[network]
	if families == nil {
		return nil, net.UnknownNetworkError(network)
	}
	var errs []error
	for _, full := range r.candidates(host) {
		addrs, err := r.both(ctx, full, families)
		if len(addrs) > 0 {
			return addrs, nil
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	return nil, &net.DNSError{Err: "no address", Name: host, IsNotFound: true}
}

// candidates are the names that a host may mean, as resolv.conf(5) says.
func (r *Resolver) candidates(host string) []string {
	if strings.HasSuffix(host, ".") || len(r.search) == 0 {
		return []string{host}
	}
	var all []string
	for _, domain := range r.search {
		all = append(all, host+"."+domain)
	}
	if strings.Count(host, ".") >= r.ndots {
		return slices.Insert(all, 0, host)
	}
	return append(all, host)
}

// both asks for the addresses of the families at once. There is an error only if
// there are no addresses.
func (r *Resolver) both(ctx context.Context, host string, ipv6 []bool) ([]netip.Addr, error) {
	type result struct {
		addrs []netip.Addr
		err   error
	}
	results := make([]chan result, len(ipv6))
	for i := range ipv6 {
		results[i] = make(chan result, 1)
		go func() { // is waited for below
			addrs, err := r.one(ctx, host, ipv6[i])
			results[i] <- result{addrs, err}
		}()
	}
	var addrs []netip.Addr
	var errs []error
	for _, c := range results {
		got := <-c
		addrs = append(addrs, got.addrs...)
		errs = append(errs, got.err)
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	return nil, errors.Join(errs...)
}

// one asks for the addresses of one family.
func (r *Resolver) one(ctx context.Context, host string, ipv6 bool) ([]netip.Addr, error) {
	var q question
	if err := q.forAddresses(host, ipv6); err != nil {
		return nil, err
	}
	select {
	case r.waiting <- struct{}{}:
		defer func() { <-r.waiting }()
	default:
		return nil, errors.New("too many queries are waiting")
	}
	reply, err := r.forwarder.ask(ctx, &q)
	if err != nil {
		return nil, err
	}
	return reply.addresses(q.qtype), nil
}
