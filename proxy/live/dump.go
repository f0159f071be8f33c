package live

import (
	"cmp"
	"net/netip"
	"slices"
)

// Dump is the connections of a set in the form of the config dump, which
// istioctl and Kiali read.
type Dump struct {
	Inbound  []InboundDump  `json:"inbound"`
	Outbound []OutboundDump `json:"outbound"`
}

// InboundDump is one inbound connection. Several streams that differ in
// nothing shown here are one entry, as in the reference.
type InboundDump struct {
	Src         netip.AddrPort `json:"src"`
	OriginalDst *string        `json:"originalDst"` // the service that the client named
	ActualDst   netip.AddrPort `json:"actualDst"`
	Protocol    Protocol       `json:"protocol"`
}

// OutboundDump is one outbound connection.
type OutboundDump struct {
	Src         netip.AddrPort `json:"src"`
	OriginalDst netip.AddrPort `json:"originalDst"`
	ActualDst   netip.AddrPort `json:"actualDst"`
	Protocol    Protocol       `json:"protocol"`
}

type inboundKey struct {
	src, actual netip.AddrPort
	host        string
	protocol    Protocol
}

// Dump lists the open connections, sorted by source and destination.
func (s *Set) Dump() Dump {
	d := Dump{Inbound: []InboundDump{}, Outbound: []OutboundDump{}}
	inbound := map[inboundKey]struct{}{}
	outbound := map[OutboundDump]struct{}{}
	for _, conn := range s.List() {
		c := conn.Facts()
		if !c.Inbound {
			outbound[OutboundDump{c.Src, c.Original, c.Actual, c.Protocol}] = struct{}{}
			continue
		}
		inbound[inboundKey{c.Src, c.Actual, c.Host, c.Protocol}] = struct{}{}
	}
	for k := range inbound {
		e := InboundDump{Src: k.src, ActualDst: k.actual, Protocol: k.protocol}
		if k.host != "" {
			e.OriginalDst = &k.host
		}
		d.Inbound = append(d.Inbound, e)
	}
	for e := range outbound {
		d.Outbound = append(d.Outbound, e)
	}
	slices.SortFunc(d.Inbound, func(a, b InboundDump) int {
		return cmp.Or(a.Src.Compare(b.Src), a.ActualDst.Compare(b.ActualDst))
	})
	slices.SortFunc(d.Outbound, func(a, b OutboundDump) int {
		return cmp.Or(a.Src.Compare(b.Src), a.ActualDst.Compare(b.ActualDst))
	})
	return d
}
