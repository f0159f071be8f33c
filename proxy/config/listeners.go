package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The ports of the reference; those of admin and stats can be moved.
const (
	adminPort            = 15000
	outboundPort         = 15001
	inboundPlaintextPort = 15006
	inboundPort          = 15008
	statsPort            = 15020
	readinessPort        = 15021
	dnsPort              = 15053
	socks5Port           = 15080
)

// finishListeners settles every address that is bound.
func (in *inputs) finishListeners(pc proxyConfig, sys system) error {
	in.LocalhostIPv6 = in.IPv6 && in.loopbackHasIPv6(sys.loopbackNoIP6)
	in.AdminPort, in.StatsPort = adminPort, statsPort
	if pc.ProxyAdminPort != nil {
		in.AdminPort = *pc.ProxyAdminPort
	}
	if pc.StatsPort != nil {
		in.StatsPort = *pc.StatsPort
	}
	in.AdminAddr = in.localhost(in.AdminPort)
	in.StatsAddr = Listen{Addr: in.wildcard(in.StatsPort)}
	if in.statsAddr.IsValid() {
		in.StatsAddr.Addr = in.statsAddr
	}
	in.ReadinessAddr = Listen{Addr: in.wildcard(readinessPort)}
	in.InboundAddr, in.InboundPlaintextAddr = in.wildcard(inboundPort), in.wildcard(inboundPlaintextPort)
	in.OutboundAddr = in.wildcard(outboundPort)
	in.IllegalPorts = []uint16{outboundPort, inboundPlaintextPort, inboundPort}
	if in.Socks5 {
		in.Socks5Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), socks5Port)
		in.IllegalPorts = append(in.IllegalPorts, socks5Port)
	}
	slices.Sort(in.IllegalPorts)
	return in.finishDNS()
}

// finishDNS settles the DNS proxy, which is configured by node metadata.
func (in *inputs) finishDNS() error {
	capture, given := in.ProxyMetadata["DNS_CAPTURE"]
	in.DNSProxy = !given || strings.EqualFold(capture, "true")
	in.DNSProxyAddr = in.localhost(dnsPort)
	if value, ok := in.ProxyMetadata["DNS_PROXY_ADDR"]; ok {
		listen, err := in.dnsAddr(value)
		if err != nil {
			return fmt.Errorf("invalid configuration: failed to parse DNS_PROXY_ADDR: %s (%w)", printable(value), err)
		}
		in.DNSProxyAddr = listen
	}
	if !in.EnableProxy && !in.DNSProxy {
		return errors.New("error parsing proxy config: ztunnel run without any servers enabled")
	}
	if in.XDSOnDemand && in.DNSProxy {
		return errors.New("invalid configuration: XDS_ON_DEMAND=true cannot be used with the DNS proxy; ISTIO_META_DNS_CAPTURE=false switches it off")
	}
	return nil
}

func (in *inputs) dnsAddr(value string) (Listen, error) {
	if port, ok := strings.CutPrefix(value, "localhost:"); ok {
		n, err := strconv.ParseUint(port, 10, 16)
		if err == nil {
			return in.localhost(uint16(n)), nil
		}
	} else if addr, err := netip.ParseAddrPort(value); err == nil {
		return Listen{Addr: addr}, nil
	}
	return Listen{}, errors.New("must be localhost:PORT or IP:PORT")
}

func (in *inputs) localhost(port uint16) Listen {
	return Listen{Localhost: true, IPv6: in.LocalhostIPv6, Port: port}
}

// wildcard is the address that stands for all of this machine.
func (in *inputs) wildcard(port uint16) netip.AddrPort {
	if in.IPv6 {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	}
	return netip.AddrPortFrom(netip.IPv4Unspecified(), port)
}

// loopbackHasIPv6 reads the kernel's switch; if that cannot be read, the
// loopback interface is taken to have IPv6.
func (in *inputs) loopbackHasIPv6(path string) bool {
	content, err := os.ReadFile(path)
	if err != nil {
		in.Warnings = append(in.Warnings, fmt.Sprintf("assume that IPv6 is enabled for localhost: %v", err))
		return true
	}
	return strings.TrimSpace(string(content)) != "1"
}
