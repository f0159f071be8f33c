package dns

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Hosts are names that are known without asking anybody, in lower case, without a
// final dot. It is not changed after use.
type Hosts map[string][]netip.Addr

// maxHosts bounds what is read of a hosts file, in bytes.
const maxHosts = 1 << 20

// LoadHosts reads a file in the format of hosts(5). Lines that are not of it are
// left out. A file that is not there is an empty one.
func LoadHosts(path string) (Hosts, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the names of hosts: %w", err)
	}
	defer f.Close()
	return parseHosts(io.LimitReader(f, maxHosts))
}

func parseHosts(r io.Reader) (Hosts, error) {
	h := Hosts{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil || addr.Zone() != "" {
			continue
		}
		for _, host := range fields[1:] {
			host = strings.ToLower(strings.TrimSuffix(host, "."))
			if !slices.Contains(h[host], addr) {
				h[host] = append(h[host], addr)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the names of hosts: %w", err)
	}
	return h, nil
}

// answer returns the answer that no resolver is needed for, or nil: of a name in
// the table, and of those that mean the same everywhere (RFC 6761, RFC 7686).
func (h Hosts) answer(q dns.Question) *dns.Msg {
	m := new(dns.Msg)
	m.Question = []dns.Question{q}
	host := strings.TrimSuffix(q.Name, ".")
	addrs := h[host]
	switch host[strings.LastIndexByte(host, '.')+1:] {
	case "localhost":
		addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	case "invalid", "onion":
		m.Rcode = dns.RcodeNameError
		return m
	}
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: localTTL}
	for _, addr := range addrs {
		switch {
		case q.Qtype == dns.TypeA && addr.Is4():
			m.Answer = append(m.Answer, &dns.A{Hdr: header, A: net.IP(addr.AsSlice())})
		case q.Qtype == dns.TypeAAAA && addr.Is6():
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header, AAAA: net.IP(addr.AsSlice())})
		}
	}
	if len(m.Answer) == 0 && !strings.HasSuffix("."+host, ".localhost") {
		return nil
	}
	return m
}
