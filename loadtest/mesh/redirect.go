package mesh

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The ports of ztunnel that traffic is redirected to.
const (
	OutboundPort = 15001
	InboundPort  = 15006
	HBONEPort    = 15008
	DNSPort      = 15053
)

// Marks of sockets and connections. Rules look at the bits of markMask, as
// Istio's do.
const (
	// Mark is the mark of ztunnel's own sockets.
	Mark = 0x539
	// replyMark is that of connections that ztunnel made in a client's name: what
	// the application answers must come back to ztunnel.
	replyMark = 0x111
	markMask  = 0xfff
)

// The addresses that kubelet's probes seem to come from. They are not captured.
var (
	probeAddr  = netip.MustParseAddr("169.254.7.127")
	probeAddr6 = netip.MustParseAddr("fd16:9254:7127:1337:ffff:ffff:ffff:ffff")
)

// The names and hooks of the tables are those of Istio's CNI agent too.
const (
	rawTable    = "istio-ambient-raw"
	mangleTable = "istio-ambient-mangle"
	natTable    = "istio-ambient-nat"
)

// A chain is a chain of a table, at a hook, with its rules in order.
type chain struct {
	table, name string
	kind        nftables.ChainType
	hook        *nftables.ChainHook
	priority    *nftables.ChainPriority
	rules       [][]expr.Any
}

// redirections are the rules of a captured pod, equal in effect to those that
// Istio's CNI agent makes with nftables:
//
//   - what the application sends goes to the outbound listener, DNS to that for
//     DNS, except what stays within the pod and what ztunnel itself sends;
//   - what arrives goes to the listener for plaintext, except for the HBONE port;
//   - what the application answers to a connection that ztunnel made in its
//     client's name goes back to ztunnel;
//   - ztunnel's DNS queries are told from those of the application that they are
//     made for.
func redirections() []chain {
	return []chain{
		{rawTable, "prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, [][]expr.Any{
			join(protocol(unix.IPPROTO_UDP), port(source, expr.CmpOpEq, 53), mark(expr.CmpOpNeq, Mark), setZone(1)),
		}},
		{rawTable, "output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw, [][]expr.Any{
			join(protocol(unix.IPPROTO_UDP), port(destination, expr.CmpOpEq, 53), mark(expr.CmpOpEq, Mark), setZone(1)),
		}},
		{mangleTable, "prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, [][]expr.Any{
			join(mark(expr.CmpOpEq, Mark), markConnection(replyMark)),
		}},
		{mangleTable, "output", nftables.ChainTypeRoute, nftables.ChainHookOutput, nftables.ChainPriorityMangle, [][]expr.Any{
			join(connectionMark(replyMark), restoreMark()),
		}},
		{natTable, "prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, [][]expr.Any{
			join(address(source, expr.CmpOpEq, probeAddr), protocol(unix.IPPROTO_TCP), accept()),
			join(address(source, expr.CmpOpEq, probeAddr6), protocol(unix.IPPROTO_TCP), accept()),
			tcpElsewhere(loopback, port(destination, expr.CmpOpNeq, HBONEPort), redirect(InboundPort)),
			tcpElsewhere(loopback6, port(destination, expr.CmpOpNeq, HBONEPort), redirect(InboundPort)),
		}},
		{natTable, "output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, outputRules()},
	}
}

// outputRules are what happens to what the pod sends.
func outputRules() [][]expr.Any {
	dns := port(destination, expr.CmpOpEq, 53)
	return [][]expr.Any{
		join(address(destination, expr.CmpOpEq, probeAddr), protocol(unix.IPPROTO_TCP), accept()),
		join(address(destination, expr.CmpOpEq, probeAddr6), protocol(unix.IPPROTO_TCP), accept()),
		join(throughLoopback(expr.CmpOpNeq), protocol(unix.IPPROTO_UDP), dns, mark(expr.CmpOpNeq, Mark), redirect(DNSPort)),
		tcpElsewhere(loopback, dns, redirect(DNSPort)),
		tcpElsewhere(loopback6, dns, redirect(DNSPort)),
		join(protocol(unix.IPPROTO_TCP), mark(expr.CmpOpEq, replyMark), accept()),
		join(throughLoopback(expr.CmpOpEq), address(destination, expr.CmpOpNeq, loopback), accept()),
		join(throughLoopback(expr.CmpOpEq), address(destination, expr.CmpOpNeq, loopback6), accept()),
		tcpElsewhere(loopback, nil, redirect(OutboundPort)),
		tcpElsewhere(loopback6, nil, redirect(OutboundPort)),
	}
}

// tcpElsewhere is a rule for TCP that ztunnel did not send and that does not go
// to the loopback address, whose family is the rule's.
func tcpElsewhere(self netip.Addr, ports, do []expr.Any) []expr.Any {
	return join(address(destination, expr.CmpOpNeq, self), protocol(unix.IPPROTO_TCP), ports, mark(expr.CmpOpNeq, Mark), do)
}

// Redirect captures the pod's TCP traffic and DNS, IPv4 and IPv6, as the CNI
// agent does before it tells ztunnel of the pod.
func (p *Pod) Redirect() error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(p.handle)))
	if err != nil {
		return fmt.Errorf("%s: open nftables: %w", p.Name, err)
	}
	tables := map[string]*nftables.Table{}
	for _, c := range redirections() {
		table := tables[c.table]
		if table == nil {
			table = conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: c.table})
			tables[c.table] = table
		}
		base := conn.AddChain(&nftables.Chain{Name: c.name, Table: table, Type: c.kind, Hooknum: c.hook, Priority: c.priority})
		own := conn.AddChain(&nftables.Chain{Name: "istio-" + c.name, Table: table})
		conn.AddRule(&nftables.Rule{Table: table, Chain: base, Exprs: []expr.Any{
			&expr.Verdict{Kind: expr.VerdictJump, Chain: own.Name},
		}})
		for _, rule := range c.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: own, Exprs: rule})
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("%s: set redirection rules: %w", p.Name, err)
	}
	return p.in(func(h *netlink.Handle) error { return replyRoutes(h, p.Addr6.IsValid()) })
}

// replyTable is the routing table for marked replies.
const replyTable, replyPriority = 100, 32764

// replyRoutes makes the pod take packets that bear the reply mark for its own,
// whomever they are addressed to.
func replyRoutes(h *netlink.Handle, ipv6 bool) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	everything := map[int]netip.Prefix{netlink.FAMILY_V4: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
	if ipv6 {
		everything[netlink.FAMILY_V6] = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	for family, prefix := range everything {
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.Table = family, replyPriority, replyTable
		mask := uint32(markMask)
		rule.Mark, rule.Mask = replyMark, &mask
		if err := h.RuleAdd(rule); err != nil {
			return fmt.Errorf("add rule for marked replies: %w", err)
		}
		dst := ipNet(prefix)
		route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Table: replyTable, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
		if err := h.RouteAdd(route); err != nil {
			return fmt.Errorf("add route for marked replies: %w", err)
		}
	}
	return nil
}
