package config

import (
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// object is a JSON object; encoding/json sorts its keys.
type object = map[string]any

// Dump returns the `config` object of the config dump, ready for
// encoding/json: the keys and encodings of the reference where a reader (Kiali)
// depends on them, `deadlines`, `budgets` and `telemetry` beyond. Values of
// headers, tokens and passwords are not in it. Where Kiali cannot decode what
// the reference writes, the nearest form that it can is taken: root
// certificates are always objects, and requireOriginalSource is a string.
func (c *Config) Dump() any {
	d := object{
		"adminAddr": c.AdminAddr.dump(), "statsAddr": c.StatsAddr.dump(), "readinessAddr": c.ReadinessAddr.dump(),
		"dnsProxyAddr": c.DNSProxyAddr.dump(), "inboundAddr": c.InboundAddr.String(), "outboundAddr": c.OutboundAddr.String(),
		"inboundPlaintextAddr": c.InboundPlaintextAddr.String(), "socks5Addr": nil, "illegalPorts": c.IllegalPorts,
		"proxy": c.EnableProxy, "dnsProxy": c.DNSProxy, "ipv6Enabled": c.IPv6, "fakeSelfInbound": false,
		"requireOriginalSource": nil, "packetMark": orNull(c.PacketMark), "socketConfig": c.Keepalive.dump(),
		"inpodUds": c.InpodUDS, "inpodPortReuse": c.InpodPortReuse, "localhostAppTunnel": c.LocalhostAppTunnel,
		"enableEnhancedBaggage": c.ResponseBaggage,

		"proxyMode": c.Mode.String(), "proxyArgs": c.ProxyArgs, "proxyWorkloadInformation": c.Workload.dump(),
		"ztunnelWorkload": c.OwnWorkload().dump(), "ztunnelIdentity": nil,
		"localNode": orNull(c.NodeName), "network": c.Network, "clusterId": c.ClusterID, "clusterDomain": c.ClusterDomain,
		"proxyMetadata": c.ProxyMetadata, "numWorkerThreads": c.WorkerThreads,

		"xdsAddress": orNull(redactURL(c.XDSAddress)), "xdsRootCert": c.XDSRootCA.dump(), "xdsHeaders": dumpHeaders(c.XDSHeaders),
		"xdsOnDemand": c.XDSOnDemand, "altXdsHostname": orNull(c.AltXDSHostname),
		"caAddress": orNull(redactURL(c.CAAddress)), "caRootCert": c.CARootCA.dump(), "caHeaders": dumpHeaders(c.CAHeaders),
		"altCaHostname": orNull(c.AltCAHostname), "fakeCa": c.FakeCA, "secretTtl": dumpDuration(c.SecretTTL),
		"crlPath": orNull(c.CRLPath), "preferedServiceNamespace": orNull(c.PreferredServiceNamespace),

		"poolMaxStreamsPerConn": c.PoolMaxStreams, "poolUnusedReleaseTimeout": dumpDuration(c.PoolUnusedTimeout),
		"windowSize": c.StreamWindow, "connectionWindowSize": c.ConnectionWindow, "frameSize": c.FrameSize,
		"selfTerminationDeadline": dumpDuration(c.DrainDeadline),
		"dnsResolverCfg":          c.Resolver.dumpConfig(), "dnsResolverOpts": c.Resolver.dumpOptions(c.IPv6),

		"deadlines": c.dumpDeadlines(), "budgets": c.Budgets.dump(), "telemetry": c.Telemetry.dump(),
	}
	if c.Socks5 {
		d["socks5Addr"] = c.Socks5Addr.String()
	}
	if c.OriginalSource != nil {
		d["requireOriginalSource"] = strconv.FormatBool(*c.OriginalSource)
	}
	if own := c.OwnWorkload(); own != nil {
		d["ztunnelIdentity"] = "spiffe://" + c.TrustDomain + "/ns/" + own.Namespace + "/sa/" + own.ServiceAccount
	}
	return d
}

func (c *Config) dumpDeadlines() object {
	return object{
		"inboundHandshake": dumpDuration(c.InboundHandshakeTimeout), "outboundHandshake": dumpDuration(c.OutboundHandshakeTimeout),
		"connectResponse": dumpDuration(c.ConnectResponseTimeout), "requestHeaders": dumpDuration(c.RequestHeadersTimeout),
		"csr": dumpDuration(c.CSRTimeout), "drain": dumpDuration(c.DrainDeadline),
	}
}

func (b Budgets) dump() object {
	return object{
		"window": dumpDuration(b.Window), "controlFrames": b.ControlFrames, "pendingResets": b.PendingResets, "resets": b.Resets,
		"headerListBytes": b.HeaderListBytes, "continuationFrames": b.ContinuationFrames,
	}
}

func (t *Telemetry) dump() object {
	overflow := "drop"
	if t.LogOverflowBlock {
		overflow = "block"
	}
	return object{
		"exposure": t.Exposure, "surfaces": orEmpty(t.Surfaces), "readers": orEmpty(t.Readers), "scopesFile": orNull(t.ScopesFile), "pushVia": t.PushVia,
		"metricsIdleEviction": dumpDuration(t.MetricsIdleEviction), "metricsMaxSeries": t.MetricsMaxSeries, "logOverflow": overflow,
		"otlp": t.OTLP.dump(), "pyroscope": t.Pyroscope.dump(),
	}
}

func (o *OTLP) dump() any {
	if !o.Enabled {
		return nil
	}
	return object{
		"protocol": o.Protocol, "endpoint": redactURL(o.Endpoint), "headers": dumpHeaders(o.Headers), "insecure": o.Insecure, "gzip": o.Gzip,
		"timeout": dumpDuration(o.Timeout), "interval": dumpDuration(o.Interval), "collectTimeout": dumpDuration(o.CollectTimeout),
		"certificate": orNull(o.Certificate), "serviceName": o.ServiceName, "resourceAttributes": o.ResourceAttributes,
	}
}

func (p *Pyroscope) dump() any {
	if p.ServerAddress == "" {
		return nil
	}
	return object{
		"serverAddress": redactURL(p.ServerAddress), "applicationName": p.ApplicationName, "basicAuthUser": orNull(p.BasicAuthUser),
		"tenantId": orNull(p.TenantID), "uploadRate": dumpDuration(p.UploadRate),
	}
}

func (l Listen) dump() object {
	if l.Localhost {
		return object{"Localhost": []any{l.IPv6, l.Port}}
	}
	return object{"SocketAddr": l.Addr.String()}
}

func (k Keepalive) dump() object {
	return object{
		"keepaliveEnabled": k.Enabled, "keepaliveTime": dumpDuration(k.Time), "keepaliveInterval": dumpDuration(k.Interval),
		"keepaliveRetries": k.Retries, "userTimeoutEnabled": k.UserTimeout,
	}
}

func (w *WorkloadInfo) dump() any {
	if w == nil {
		return nil
	}
	return object{"name": w.Name, "namespace": w.Namespace, "serviceAccount": w.ServiceAccount}
}

func (r RootCA) dump() object {
	switch r.Kind {
	case RootSystem:
		return object{"Default": []any{}}
	case RootInline:
		return object{"Static": []any{}}
	default:
		return object{"File": r.Path}
	}
}

// dumpConfig lists each server for both transports, as the reference does.
func (r Resolver) dumpConfig() object {
	server := func(addr netip.AddrPort, protocol string) object {
		return object{"bind_addr": nil, "protocol": protocol, "socket_addr": addr.String(), "tls_dns_name": nil, "trust_negative_responses": false}
	}
	servers := []object{}
	for _, addr := range r.Servers {
		servers = append(servers, server(addr, "udp"), server(addr, "tcp"))
	}
	return object{"domain": nil, "search": orEmpty(r.Search), "name_servers": servers}
}

func (r Resolver) dumpOptions(ipv6 bool) object {
	strategy := "Ipv4Only"
	if ipv6 {
		strategy = "Ipv4AndIpv6"
	}
	return object{
		"attempts": r.Attempts, "ndots": r.NDots, "cache_size": r.CacheSize, "edns0": r.EDNS0, "ip_strategy": strategy,
		"timeout": dumpDuration(time.Duration(r.Timeout) * time.Second),
	}
}

func dumpHeaders(headers []Header) [][2]string {
	list := [][2]string{}
	for _, h := range headers {
		list = append(list, [2]string{h.Name, redacted})
	}
	return list
}

func dumpDuration(d time.Duration) object {
	return object{"secs": int64(d / time.Second), "nanos": int64(d % time.Second)}
}

// orNull makes null of a zero value.
func orNull[T comparable](value T) any {
	var zero T
	if value == zero {
		return nil
	}
	return value
}

// orEmpty makes [] of a nil list.
func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// redactURL hides user and password in a URL, which Load has checked.
func redactURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return text
	}
	u.User = url.User("redacted")
	return u.String()
}
