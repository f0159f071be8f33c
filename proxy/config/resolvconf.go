package config

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// readResolvConf reads the system's DNS configuration. A file that cannot be
// read is a warning: only connections to host names and the DNS proxy need it.
func (in *inputs) readResolvConf(path string) {
	content, err := os.ReadFile(path)
	if err != nil {
		in.Warnings = append(in.Warnings, fmt.Sprintf("no DNS servers are known: %v", err))
	}
	in.Resolver = parseResolvConf(content)
}

// parseResolvConf reads the format of resolv.conf(5), with its limits. What it
// does not know is ignored, as the C library does.
func parseResolvConf(content []byte) Resolver {
	r := Resolver{Timeout: 5, Attempts: 2, NDots: 1, CacheSize: 4096}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || strings.HasPrefix(fields[0], ";") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if addr, err := netip.ParseAddr(fields[1]); err == nil {
				r.Servers = append(r.Servers, netip.AddrPortFrom(addr, 53))
			}
		case "domain":
			r.Search = fields[1:2]
		case "search":
			r.Search = fields[1:]
		case "options":
			for _, option := range fields[1:] {
				r.option(option)
			}
		}
	}
	return r
}

func (r *Resolver) option(option string) {
	name, value, _ := strings.Cut(option, ":")
	n, err := strconv.ParseUint(value, 10, 32)
	number := uint(n)
	switch {
	case name == "edns0":
		r.EDNS0 = true
	case err != nil:
	case name == "ndots":
		r.NDots = min(number, 15)
	case name == "timeout":
		r.Timeout = min(max(number, 1), 30)
	case name == "attempts":
		r.Attempts = min(max(number, 1), 5)
	}
}
