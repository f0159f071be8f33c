package mesh

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Packets is what a capture has recorded.
type Packets struct {
	// Lost is how many packets were not recorded, although they were there.
	Lost int
	// Frames are the packets, from the Ethernet header on.
	Frames [][]byte

	segments []segment
	streams  []Stream
}

// segment is one TCP packet.
type segment struct {
	from, to netip.AddrPort
	seq      uint32
	syn, ack bool
	payload  []byte
}

// Stream is what one side of a TCP connection sent.
type Stream struct {
	From, To netip.AddrPort
	// Data is its bytes, put together from the packets.
	Data []byte
	// Complete tells that the recording has the connection's begin and no gap.
	Complete bool
}

func newPackets(frames [][]byte, lost int) *Packets {
	p := &Packets{Lost: lost, Frames: frames}
	for _, frame := range frames {
		if s, ok := parseSegment(frame); ok {
			p.segments = append(p.segments, s)
		}
	}
	p.streams = assemble(p.segments)
	return p
}

// Len is the number of packets.
func (p *Packets) Len() int { return len(p.Frames) }

// Bytes is the size of all packets.
func (p *Packets) Bytes() int {
	n := 0
	for _, frame := range p.Frames {
		n += len(frame)
	}
	return n
}

// TCP is the number of TCP packets.
func (p *Packets) TCP() int { return len(p.segments) }

// UDP is the number of UDP packets.
func (p *Packets) UDP() int {
	n := 0
	for _, frame := range p.Frames {
		if isUDP(frame) {
			n++
		}
	}
	return n
}

func isUDP(frame []byte) bool {
	if len(frame) < 14+10 {
		return false
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		return frame[14+9] == unix.IPPROTO_UDP
	case unix.ETH_P_IPV6:
		return frame[14+6] == unix.IPPROTO_UDP
	}
	return false
}

// Count is in how many places a byte string was found: in a packet, or in a
// stream across the packets it was cut into.
func (p *Packets) Count(needle []byte) int {
	n := 0
	for _, frame := range p.Frames {
		n += bytes.Count(frame, needle)
	}
	if n > 0 {
		return n
	}
	for _, s := range p.streams {
		n += bytes.Count(s.Data, needle)
	}
	return n
}

// Ports are the TCP ports that somebody connected to, or tried to, in order.
func (p *Packets) Ports() []uint16 {
	var ports []uint16
	for _, s := range p.segments {
		if s.syn && !s.ack {
			ports = append(ports, s.to.Port())
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// Elsewhere is the number of TCP packets that neither go to one of the ports nor
// come from one.
func (p *Packets) Elsewhere(ports ...uint16) int {
	n := 0
	for _, s := range p.segments {
		if !slices.Contains(ports, s.from.Port()) && !slices.Contains(ports, s.to.Port()) {
			n++
		}
	}
	return n
}

// Streams are both sides of all TCP connections, in no particular order.
func (p *Packets) Streams() []Stream { return p.streams }

// parseSegment reads an Ethernet frame with TCP in IPv4, or in IPv6 without
// extension headers. Anything else is none.
func parseSegment(frame []byte) (segment, bool) {
	if len(frame) < 14 {
		return segment{}, false
	}
	packet := frame[14:]
	var from, to netip.Addr
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		if len(packet) < 20 || packet[9] != unix.IPPROTO_TCP {
			return segment{}, false
		}
		header, total := int(packet[0]&0xf)*4, int(binary.BigEndian.Uint16(packet[2:]))
		from, to = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
		packet = cut(packet, total)
		packet = packet[min(header, len(packet)):]
	case unix.ETH_P_IPV6:
		if len(packet) < 40 || packet[6] != unix.IPPROTO_TCP {
			return segment{}, false
		}
		payload := int(binary.BigEndian.Uint16(packet[4:]))
		from, to = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
		packet = cut(packet[40:], payload)
	default:
		return segment{}, false
	}
	return parseTCP(packet, from, to)
}

func parseTCP(packet []byte, from, to netip.Addr) (segment, bool) {
	if len(packet) < 20 {
		return segment{}, false
	}
	const syn, ack = 0x02, 0x10
	header := min(int(packet[12]>>4)*4, len(packet))
	return segment{
		from: netip.AddrPortFrom(from, binary.BigEndian.Uint16(packet)),
		to:   netip.AddrPortFrom(to, binary.BigEndian.Uint16(packet[2:])),
		seq:  binary.BigEndian.Uint32(packet[4:]),
		syn:  packet[13]&syn != 0, ack: packet[13]&ack != 0,
		payload: packet[header:],
	}, true
}

// cut removes padding after a packet of the given length. A length of 0 is that
// of a packet that is larger than its field can say.
func cut(packet []byte, length int) []byte {
	if length == 0 || length > len(packet) {
		return packet
	}
	return packet[:length]
}

// assemble puts streams together by sequence number.
func assemble(segments []segment) []Stream {
	type key struct{ from, to netip.AddrPort }
	flows := map[key][]segment{}
	for _, s := range segments {
		k := key{s.from, s.to}
		flows[k] = append(flows[k], s)
	}
	var streams []Stream
	for k, flow := range flows {
		for len(flow) > 0 { // a port pair may be used again: each SYN begins another
			end := 1 + slices.IndexFunc(flow[1:], func(s segment) bool { return s.syn && s.seq != flow[0].seq })
			if end == 0 {
				end = len(flow)
			}
			streams = append(streams, stream(k.from, k.to, flow[:end]))
			flow = flow[end:]
		}
	}
	return streams
}

// stream puts one stream together. Repeated bytes are left out; bytes after a
// gap are kept, but the stream is not complete.
func stream(from, to netip.AddrPort, flow []segment) Stream {
	s := Stream{From: from, To: to, Complete: flow[0].syn}
	next := flow[0].seq
	if flow[0].syn {
		next++
	}
	flow = slices.Clone(flow)
	slices.SortStableFunc(flow, func(a, b segment) int { return cmp.Compare(int32(a.seq-next), int32(b.seq-next)) })
	for _, part := range flow {
		at := part.seq
		if part.syn {
			at++
		}
		if len(part.payload) == 0 {
			continue
		}
		ahead := int32(at - next)
		if ahead > 0 {
			s.Complete = false
			next = at
			ahead = 0
		}
		if old := int(-ahead); old < len(part.payload) {
			s.Data = append(s.Data, part.payload[old:]...)
			next = at + uint32(len(part.payload))
		}
	}
	return s
}

// TLSRecords reads data as TLS records (RFC 8446 §5.1) and tells how many there
// are, and whether data is nothing but records, the first of a handshake. The
// last record may be cut off, as by the end of a recording.
func TLSRecords(data []byte) (n int, ok bool) {
	const changeCipherSpec, handshake, applicationData = 20, 22, 23
	for len(data) > 0 {
		kind := data[0]
		if kind < changeCipherSpec || kind > applicationData || n == 0 && kind != handshake {
			return n, false
		}
		if len(data) < 5 {
			return n, true
		}
		length := int(binary.BigEndian.Uint16(data[3:]))
		if data[1] != 3 || length > 1<<14+256 {
			return n, false
		}
		n++
		data = data[min(5+length, len(data)):]
	}
	return n, true
}
