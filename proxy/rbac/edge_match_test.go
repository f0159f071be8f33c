package rbac

import (
	"net/netip"
	"testing"
)

// What is excepted by a not_ kind is for peers with and without an identity alike, as far as it is not about identity.
func TestExceptionsOfAddressesAndPorts(t *testing.T) {
	for name, m := range map[string]Match{
		"source":      {NotSourceIPs: prefixes("127.0.0.99/32")},
		"destination": {NotDestinationIPs: prefixes("127.0.0.99/32")},
		"port":        {NotDestinationPorts: []uint16{81}},
	} {
		for who, c := range map[string]*Connection{"authenticated": client(), "anonymous": stranger()} {
			if !matching(t, c, one(m)) {
				t.Errorf("another %s excepted, %s peer: match = false, want true", name, who)
			}
		}
	}
}

// A range with host bits holds all addresses of its network.
func TestRangeWithHostBits(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.0": true, "127.0.0.2": true, "127.0.0.4": true, "127.0.0.255": true, "127.0.1.0": false, "126.255.255.255": false} {
		c := client()
		c.Dst = netip.AddrPortFrom(netip.MustParseAddr(addr), 80)
		if got := matching(t, c, one(Match{DestinationIPs: prefixes("127.0.0.1/24")})); got != want {
			t.Errorf("match of %s by 127.0.0.1/24 = %t, want %t", addr, got, want)
		}
	}
}
