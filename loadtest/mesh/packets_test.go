package mesh

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	here  = netip.MustParseAddrPort("10.0.0.1:40000")
	there = netip.MustParseAddrPort("10.0.0.2:15008")
	here6 = netip.MustParseAddrPort("[fd00::1]:40000")
	far6  = netip.MustParseAddrPort("[fd00::2]:80")
)

const (
	flagSYN = 0x02
	flagACK = 0x10
)

// frame is an Ethernet frame with a TCP packet, padded to the least size.
func frame(from, to netip.AddrPort, seq uint32, flags byte, payload string) []byte {
	tcp := make([]byte, 24) // with 4 bytes of options
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12], tcp[13] = 6<<4, flags
	tcp = append(tcp, payload...)
	var ip []byte
	ether := make([]byte, 12)
	if from.Addr().Is4() {
		ether = append(ether, 0x08, 0x00)
		ip = make([]byte, 20)
		ip[0], ip[9] = 0x45, 6
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
		copy(ip[12:], from.Addr().AsSlice())
		copy(ip[16:], to.Addr().AsSlice())
	} else {
		ether = append(ether, 0x86, 0xdd)
		ip = make([]byte, 40)
		ip[0], ip[6] = 0x60, 6
		binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
		copy(ip[8:], from.Addr().AsSlice())
		copy(ip[24:], to.Addr().AsSlice())
	}
	all := slices.Concat(ether, ip, tcp)
	for len(all) < 80 {
		all = append(all, 'P') // padding is not payload
	}
	return all
}

func TestPackets(t *testing.T) {
	udp := frame(here, there, 0, 0, "")
	udp[14+9] = 17
	udp6 := frame(here6, far6, 0, 0, "")
	udp6[14+6] = 17
	p := newPackets([][]byte{
		frame(here, there, 100, flagSYN, ""),
		frame(there, here, 7, flagSYN|flagACK, ""),
		frame(here, there, 101, flagACK, "one se"),
		frame(here, there, 107, flagACK, "cret"),
		frame(here, there, 105, flagACK, "secret, tw"), // repeats, and goes on
		frame(here6, far6, 1, flagSYN, ""),
		frame(here6, far6, 2, flagACK, "hello"),
		udp, udp6,
		{1, 2, 3},
		make([]byte, 60),
	}, 3)
	if p.Len() != 11 || p.TCP() != 7 || p.UDP() != 2 || p.Lost != 3 {
		t.Errorf("Len, TCP, UDP, Lost = %d, %d, %d, %d, want 11, 7, 2, 3", p.Len(), p.TCP(), p.UDP(), p.Lost)
	}
	if diff := cmp.Diff([]uint16{80, 15008}, p.Ports()); diff != "" {
		t.Errorf("Ports() (-want +got):\n%s", diff)
	}
	if got := p.Elsewhere(15008); got != 2 {
		t.Errorf("Elsewhere(15008) = %d, want 2", got)
	}
	got := map[netip.AddrPort]string{}
	for _, s := range p.Streams() {
		got[s.From] = string(s.Data)
		if !s.Complete {
			t.Errorf("stream from %v is not complete", s.From)
		}
	}
	want := map[netip.AddrPort]string{here: "one secret, tw", there: "", here6: "hello"}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("streams (-want +got):\n%s", diff)
	}
}

func TestCount(t *testing.T) {
	p := newPackets([][]byte{
		frame(here, there, 100, flagSYN, ""),
		frame(here, there, 101, flagACK, "whole, who"),
		frame(here, there, 111, flagACK, "le, cu"),
		frame(here, there, 117, flagACK, "t"),
	}, 0)
	for needle, want := range map[string]int{
		"whole":  1, // in a packet
		"cut":    1, // over a boundary
		"le, wh": 1,
		"PPP":    -1, // padding is part of a packet
		"absent": 0,
	} {
		got := p.Count([]byte(needle))
		if got != want && (want >= 0 || got == 0) {
			t.Errorf("Count(%q) = %d, want %d", needle, got, want)
		}
	}
}

func TestStreamGaps(t *testing.T) {
	for name, test := range map[string]struct {
		frames   [][]byte
		data     string
		complete bool
	}{
		"in disorder": {
			[][]byte{frame(here, there, 9, flagSYN, ""), frame(here, there, 12, flagACK, "cd"), frame(here, there, 10, flagACK, "ab")},
			"abcd", true,
		},
		"over the end of the numbers": {
			[][]byte{frame(here, there, 1<<32-2, flagSYN, ""), frame(here, there, 1<<32-1, flagACK, "ab"), frame(here, there, 1, flagACK, "cd")},
			"abcd", true,
		},
		"with a gap": {
			[][]byte{frame(here, there, 9, flagSYN, ""), frame(here, there, 11, flagACK, "cd")},
			"cd", false,
		},
		"without a begin": {[][]byte{frame(here, there, 11, flagACK, "cd")}, "cd", false},
		"data with the SYN": {
			[][]byte{frame(here, there, 9, flagSYN, "ab"), frame(here, there, 12, flagACK, "cd")},
			"abcd", true,
		},
	} {
		streams := newPackets(test.frames, 0).Streams()
		if len(streams) != 1 || string(streams[0].Data) != test.data || streams[0].Complete != test.complete {
			t.Errorf("%s: streams = %+v, want one of %q, complete %t", name, streams, test.data, test.complete)
		}
	}
	// Another connection with the same ports is another stream.
	again := newPackets([][]byte{
		frame(here, there, 9, flagSYN, ""), frame(here, there, 9, flagSYN, ""), frame(here, there, 10, flagACK, "ab"),
		frame(here, there, 900, flagSYN, ""), frame(here, there, 901, flagACK, "xy"),
	}, 0).Streams()
	if len(again) != 2 || string(again[0].Data) != "ab" || string(again[1].Data) != "xy" {
		t.Errorf("two connections: streams = %+v, want ab and xy", again)
	}
}

func TestTLSRecords(t *testing.T) {
	record := func(kind byte, n int) string {
		return string([]byte{kind, 3, 3, byte(n >> 8), byte(n)}) + string(bytes.Repeat([]byte{'x'}, n))
	}
	for name, test := range map[string]struct {
		data string
		n    int
		ok   bool
	}{
		"nothing":            {"", 0, true},
		"handshake and data": {record(22, 100) + record(20, 1) + record(23, 16384), 3, true},
		"cut off":            {record(22, 100) + record(23, 50)[:20], 2, true},
		"cut off header":     {record(22, 100) + "\x17\x03", 1, true},
		"data first":         {record(23, 100), 0, false},
		"plaintext":          {"GET / HTTP/1.1\r\n", 0, false},
		"plaintext later":    {record(22, 100) + "hello, world", 1, false},
		"too large":          {record(22, 1) + record(23, 1<<14+257), 1, false},
		"another version":    {"\x16\x02\x00\x00\x01x", 0, false},
	} {
		if n, ok := TLSRecords([]byte(test.data)); n != test.n || ok != test.ok {
			t.Errorf("%s: TLSRecords = %d, %t, want %d, %t", name, n, ok, test.n, test.ok)
		}
	}
}

// What comes from the wire must not make the search fail.
func FuzzPackets(f *testing.F) {
	f.Add(frame(here, there, 1, flagSYN, ""), frame(here, there, 2, flagACK, "hello"))
	f.Add(frame(here6, far6, 1, flagSYN, ""), frame(here6, far6, 3, flagACK, "hello"))
	f.Add([]byte{}, []byte{13: 0})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		p := newPackets([][]byte{a, b}, 0)
		size := 0
		for _, s := range p.Streams() {
			size += len(s.Data)
			TLSRecords(s.Data)
		}
		if size > len(a)+len(b) {
			t.Errorf("streams have %d bytes, packets %d", size, len(a)+len(b))
		}
		for _, needle := range [][]byte{a, b} {
			if len(needle) > 0 && p.Count(needle) == 0 {
				t.Errorf("Count of a whole packet = 0, want it found")
			}
		}
		p.Ports()
		p.UDP()
	})
}
