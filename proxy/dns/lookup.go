package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"ztunnel/proxy/workload"
)

// Lookup returns the addresses of a host as a client of this server gets them:
// those of the mesh if the name is known there, else those of the resolvers. With
// ipv6 it looks for IPv6 addresses, else for IPv4 ones. A name without addresses
// is no error. It counts as a query over UDP, and ends with ctx or the server.
func (s *Server) Lookup(ctx context.Context, host string, ipv6 bool) ([]netip.Addr, error) {
	addrs, err := s.lookup(ctx, host, ipv6)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	return addrs, nil
}

func (s *Server) lookup(ctx context.Context, host string, ipv6 bool) ([]netip.Addr, error) {
	var q question
	if err := q.forAddresses(host, ipv6); err != nil {
		return nil, err
	}
	defer s.outstanding.Add(-1)
	if s.outstanding.Add(1) > maxOutstanding {
		s.config.Metrics.refused.Add(1)
		return nil, errors.New("too many queries are waiting")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	var own *workload.Workload
	if s.config.Store != nil {
		if own = s.awaitOwn(ctx, netip.Addr{}); own == nil {
			s.series(nil, q.qtype, overUDP).requests.Add(1)
			return nil, errors.New("the workload that asks is unknown")
		}
		sc := scratches.Get().(*scratch)
		defer sc.release()
		if m, found := s.find(sc, &q.name, own); found {
			sc.addrs = s.meshAddresses(sc.addrs[:0], &q, overUDP, own, m)
			return slices.Clone(sc.addrs), nil
		}
	}
	start := time.Now()
	r, err := s.forwarder.ask(ctx, &q)
	s.forwarded(&q, overUDP, own, r, err, time.Since(start))
	if err != nil {
		return nil, err
	}
	return r.addresses(q.qtype), nil
}

// forAddresses makes q the question for the addresses of a host.
func (q *question) forAddresses(host string, ipv6 bool) error {
	q.flags, q.qtype, q.qclass = flagRecursionDesired, dns.TypeA, dns.ClassINET
	if ipv6 {
		q.qtype = dns.TypeAAAA
	}
	wire := make([]byte, maxName)
	n, err := dns.PackDomainName(dns.Fqdn(host), wire, 0, nil, false)
	if err != nil || q.name.parse(wire[:n]) == 0 {
		return errors.New("not the name of a host")
	}
	return nil
}
