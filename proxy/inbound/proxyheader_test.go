package inbound

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

func TestProxyHeader(t *testing.T) {
	const signature = "0d0a0d0a000d0a515549540a"
	v4, v6 := netip.MustParseAddrPort("10.0.0.1:4660"), netip.MustParseAddrPort("[fd00::1]:80")
	for name, tc := range map[string]struct {
		src, dst netip.AddrPort
		peer     string
		want     string
	}{
		"IPv4":             {v4, netip.MustParseAddrPort("10.0.0.2:80"), "", signature + "2111000c" + "0a0000010a000002" + "12340050"},
		"IPv6":             {v6, v6, "", signature + "21210024" + strings.Repeat("fd000000000000000000000000000001", 2) + "00500050"},
		"two families":     {v4, v6, "", signature + "21010000"},
		"with an identity": {v4, v6, "ab", signature + "21010005" + "d000026162"},
	} {
		if got := hex.EncodeToString(proxyHeader(tc.src, tc.dst, tc.peer)); got != tc.want {
			t.Errorf("%s: proxyHeader() = %s, want %s", name, got, tc.want)
		}
	}
}
