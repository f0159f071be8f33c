package mesh

import (
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The parts that rules of nftables are put together from. Each loads what it
// looks at into the one register and compares it, or does something with the
// packet.

var (
	loopback  = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

func join(parts ...[]expr.Any) (all []expr.Any) {
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// register is the one that each match loads into.
const register = 1

// throughLoopback compares the interface that a packet leaves by with lo.
func throughLoopback(op expr.CmpOp) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register},
		&expr.Cmp{Op: op, Register: register, Data: name},
	}
}

func protocol(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{number}},
	}
}

// side is an end of a packet.
type side int

const (
	source side = iota
	destination
)

// port compares a port of TCP or UDP.
func port(of side, op expr.CmpOp, number uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: uint32(2 * of), Len: 2},
		&expr.Cmp{Op: op, Register: register, Data: binaryutil.BigEndian.PutUint16(number)},
	}
}

// address matches packets of the address's family whose address compares so.
func address(of side, op expr.CmpOp, addr netip.Addr) []expr.Any {
	family, first, size := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4)
	if addr.Is6() {
		family, first, size = unix.NFPROTO_IPV6, 8, 16
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{family}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: first + size*uint32(of), Len: size},
		&expr.Cmp{Op: op, Register: register, Data: addr.AsSlice()},
	}
}

// masked is the register and a mask, exclusive or another value.
func masked(mask, xor uint32) *expr.Bitwise {
	return &expr.Bitwise{
		SourceRegister: register, DestRegister: register, Len: 4,
		Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: binaryutil.NativeEndian.PutUint32(xor),
	}
}

// mark compares the packet's mark.
func mark(op expr.CmpOp, value uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		masked(markMask, 0),
		&expr.Cmp{Op: op, Register: register, Data: binaryutil.NativeEndian.PutUint32(value)},
	}
}

// connectionMark matches packets of connections with the mark.
func connectionMark(value uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: register},
		masked(markMask, 0),
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.NativeEndian.PutUint32(value)},
	}
}

// markConnection marks the connection of the packet.
func markConnection(value uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: register},
		masked(^uint32(markMask), value),
		&expr.Ct{Key: expr.CtKeyMARK, Register: register, SourceRegister: true},
	}
}

// restoreMark gives the packet the mark of its connection.
func restoreMark() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: register},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register, SourceRegister: true},
	}
}

// setZone puts the packet into a zone of connection tracking.
func setZone(zone uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register, Data: binaryutil.NativeEndian.PutUint16(zone)},
		&expr.Ct{Key: expr.CtKeyZONE, Register: register, SourceRegister: true},
	}
}

func redirect(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: register},
	}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
