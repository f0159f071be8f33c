package interop

import (
	"net/netip"
	"strings"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
)

// family is an IP version, over which all talk to each other that can. Pods have
// addresses of both, and services of this one: ztunnel dials an address of the
// version that was asked for.
type family struct {
	name string
	ipv6 bool
	// The addresses of services. Nobody has them: they exist in the mesh alone.
	keeperVIP, depotVIP      netip.AddrPort
	waypointVIP, sandwichVIP netip.Addr
}

var families = []family{
	{
		name:      "IPv4",
		keeperVIP: netip.MustParseAddrPort("10.96.0.10:7"), waypointVIP: netip.MustParseAddr("10.96.0.11"),
		depotVIP: netip.MustParseAddrPort("10.96.0.12:7"), sandwichVIP: netip.MustParseAddr("10.96.0.13"),
	},
	{
		name: "IPv6", ipv6: true,
		keeperVIP: netip.MustParseAddrPort("[fd00:96::10]:7"), waypointVIP: netip.MustParseAddr("fd00:96::11"),
		depotVIP: netip.MustParseAddrPort("[fd00:96::12]:7"), sandwichVIP: netip.MustParseAddr("fd00:96::13"),
	},
}

// addr is the address of a pod.
func (f family) addr(p *cluster.Pod) netip.Addr {
	if f.ipv6 {
		return p.Addr6
	}
	return p.Addr
}

// loopback is the loopback address.
func (f family) loopback() netip.Addr {
	if f.ipv6 {
		return netip.IPv6Loopback()
	}
	return loopback
}

// at is a port of a pod.
func (f family) at(p *cluster.Pod, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(f.addr(p), port)
}

// hbone is where a pod takes HBONE, as logs have it.
func (f family) hbone(p *cluster.Pod) string { return f.at(p, mesh.HBONEPort).String() }

// from is any port of a pod, in the form of [fields].
func (f family) from(p *cluster.Pod) string {
	return strings.TrimSuffix(f.at(p, 0).String(), "0") + "…"
}
