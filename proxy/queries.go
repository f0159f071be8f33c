package proxy

import (
	"log/slog"
	"net"
	"net/netip"
	"time"

	"ztunnel/proxy/config"
	"ztunnel/proxy/dns"
	"ztunnel/proxy/outbound"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// DNSConfig says how the queries of a pod are answered, at which addresses, but
// not how these are bound. Its sockets to the resolvers are the pod's.
func (n *Node) DNSConfig(pod workload.Info, addrs []netip.AddrPort, sockets *socket.Factory, log *slog.Logger) dns.Config {
	c := dns.Config{
		Addrs: addrs, Workload: pod, Store: n.Store, Network: n.Config.Network,
		Domain: n.Config.ClusterDomain, IPv6: n.Config.IPv6, PreferredNamespace: n.Config.PreferredServiceNamespace,
		Upstreams: Upstreams(n.Config, n.Hosts), Go: n.Go, Panics: &n.panics, Queries: n.queryLog(), Log: log,
	}
	c.Upstreams.Control, c.Upstreams.OpenUDP = sockets.Control, sockets.OpenPackets
	if n.Config.Mode == config.Dedicated {
		c.Search = n.Config.Resolver.Search
	}
	return c
}

// queryLog is the logger of the lines about queries, one for all pods.
func (n *Node) queryLog() *slog.Logger {
	n.queriesOnce.Do(func() { n.queries = n.Log("dns") })
	return n.queries
}

// Upstreams are the resolvers of the system.
func Upstreams(c *config.Config, hosts dns.Hosts) dns.Upstreams {
	return dns.Upstreams{
		Servers: c.Resolver.Servers, Timeout: time.Duration(c.Resolver.Timeout) * time.Second, Attempts: int(c.Resolver.Attempts),
		EDNS: c.Resolver.EDNS0, Hosts: hosts,
	}
}

// resolver is what looks up workloads that are only known by a hostname, and
// counts that.
func (n *Node) resolver() (outbound.Resolver, func(source *connection.Workload, host string)) {
	if n.Resolver == nil {
		return net.DefaultResolver, nil
	}
	return n.Resolver, n.Resolver.Count
}
