package mesh

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The ports of ztunnel that traffic is redirected to.
const (
	OutboundPort = 15001
	InboundPort  = 15006
	HBONEPort    = 15008
)

// The mark of ztunnel's own sockets, with the mask that Istio's rules apply.
const (
	Mark     = 0x539
	markMask = 0xfff
)

// redirectTable is the name that the CNI agent gives its table too.
const redirectTable = "istio-ambient-nat"

// A redirection is one chain of the table: a hook and one rule.
type redirection struct {
	base, chain string
	hook        *nftables.ChainHook
	rule        []expr.Any
}

// redirections are the rules of a captured pod, equal in effect to those that
// Istio's CNI agent makes with nftables:
//
//   - what the application sends goes to the outbound listener, except over
//     loopback, and except what ztunnel itself sends, which is marked;
//   - what arrives goes to the listener for plaintext, except for the HBONE port.
//
// Left out is what dedicated mode does not use: kept source addresses
// (connection marks), DNS capture, and the bypass for kubelet's probes.
func redirections() []redirection {
	return []redirection{
		{
			base: "prerouting", chain: "istio-prerouting", hook: nftables.ChainHookPrerouting,
			rule: join(otherThanLoopback(expr.MetaKeyIIFNAME), tcp(), destinationOtherThan(HBONEPort), unmarked(), redirect(InboundPort)),
		},
		{
			base: "output", chain: "istio-output", hook: nftables.ChainHookOutput,
			rule: join(otherThanLoopback(expr.MetaKeyOIFNAME), tcp(), unmarked(), redirect(OutboundPort)),
		},
	}
}

// Redirect captures the pod's TCP traffic, IPv4 and IPv6.
func (p *Pod) Redirect() error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(p.handle)))
	if err != nil {
		return fmt.Errorf("%s: open nftables: %w", p.Name, err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: redirectTable})
	for _, r := range redirections() {
		base := conn.AddChain(&nftables.Chain{
			Name: r.base, Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: r.hook, Priority: nftables.ChainPriorityNATDest,
		})
		chain := conn.AddChain(&nftables.Chain{Name: r.chain, Table: table})
		conn.AddRule(&nftables.Rule{Table: table, Chain: base, Exprs: []expr.Any{
			&expr.Verdict{Kind: expr.VerdictJump, Chain: r.chain},
		}})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r.rule})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("%s: set redirection rules: %w", p.Name, err)
	}
	return nil
}

func join(parts ...[]expr.Any) (all []expr.Any) {
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// register is the one that each match loads into.
const register = 1

func otherThanLoopback(key expr.MetaKey) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: name},
	}
}

func tcp() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
	}
}

func destinationOtherThan(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

func unmarked() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(markMask), Xor: binaryutil.NativeEndian.PutUint32(0),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: binaryutil.NativeEndian.PutUint32(Mark)},
	}
}

func redirect(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: register},
	}
}
