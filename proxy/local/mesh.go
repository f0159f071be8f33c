package local

import (
	"net/netip"
	"strconv"
	"strings"

	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
)

func readAddr(v value) (netip.Addr, error) {
	s, err := v.text()
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, v.errorf("%q is not an IP address", s)
	}
	return a, nil
}

func readPrefix(v value) (netip.Prefix, error) {
	s, err := v.text()
	if err != nil {
		return netip.Prefix{}, err
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, v.errorf("%q is not an address range: expected IP/LENGTH", s)
	}
	return p, nil
}

func readNetworkAddress(v value) (workload.NetworkAddress, error) {
	s, err := v.text()
	if err != nil {
		return workload.NetworkAddress{}, err
	}
	network, addr, ok := strings.Cut(s, "/")
	a, err := netip.ParseAddr(addr)
	if !ok || err != nil || a.Zone() != "" {
		return workload.NetworkAddress{}, v.errorf("%q is not an address: expected NETWORK/IP or /IP", s)
	}
	return workload.NetworkAddress{Network: network, Addr: a}, nil
}

func readGateway(v value) (workload.Gateway, error) {
	var g workload.Gateway
	destination := func(v value) error {
		s, err := v.text()
		if err != nil {
			return err
		}
		network, rest, ok := strings.Cut(s, "/")
		if !ok {
			return v.errorf("%q is not a destination: expected NETWORK/IP or NAMESPACE/HOSTNAME", s)
		}
		if a, err := netip.ParseAddr(rest); err == nil && a.Zone() == "" {
			g.Address = workload.NetworkAddress{Network: network, Addr: a}
		} else {
			g.Hostname = workload.NamespacedHostname{Namespace: network, Hostname: rest}
		}
		return nil
	}
	err := v.object(required("destination", destination), required("hboneMtlsPort", into(&g.Port, readPort)))
	return g, err
}

func readPortMap(v value) (workload.PortMap, error) {
	m := workload.PortMap{}
	err := v.pairs(func(key string, item value) error {
		from, err := strconv.ParseUint(key, 10, 16)
		if err != nil {
			return item.errorf("the key %q is not a port", key)
		}
		m[uint16(from)], err = readPort(item)
		return err
	})
	return m, err
}

func readHostname(v value, s string) (workload.NamespacedHostname, error) {
	key, ok := workload.ParseNamespacedHostname(s)
	if !ok {
		return key, v.errorf("the key %q is not a service: expected NAMESPACE/HOSTNAME", s)
	}
	return key, nil
}

func readWorkloadServices(v value) (map[workload.NamespacedHostname]workload.PortMap, error) {
	m := map[workload.NamespacedHostname]workload.PortMap{}
	err := v.pairs(func(s string, item value) error {
		key, err := readHostname(item, s)
		if err != nil {
			return err
		}
		m[key], err = readPortMap(item)
		return err
	})
	return m, err
}

func readLocality(v value) (workload.Locality, error) {
	var l workload.Locality
	err := v.object(
		required("region", into(&l.Region, readText)),
		required("zone", into(&l.Zone, readText)),
		required("subzone", into(&l.Subzone, readText)),
	)
	return l, err
}

func readAppTunnel(v value) (workload.ApplicationTunnel, error) {
	var t workload.ApplicationTunnel
	err := v.object(
		required("protocol", into(&t.Protocol, readEnum(workload.AppTunnelNone, workload.AppTunnelProxy))),
		optional("port", into(&t.Port, readPort)),
	)
	return t, err
}

var readStatus = readEnum(workload.Healthy, workload.Unhealthy)

func readWorkload(v value) (*workload.Workload, error) {
	w := &workload.Workload{TrustDomain: spiffe.DefaultTrustDomain, ServiceAccount: spiffe.DefaultServiceAccount, Capacity: 1}
	err := v.object(
		required("workloadIps", intoList(&w.Addrs, readAddr)),
		required("namespace", into(&w.Namespace, readText)),
		required("services", into(&w.Services, readWorkloadServices)),
		optional("uid", into(&w.UID, readText)),
		optional("name", into(&w.Name, readText)),
		optional("protocol", into(&w.Protocol, readEnum(workload.TCP, workload.HBONE))),
		optional("networkMode", into(&w.NetworkMode, readEnum(workload.NetworkStandard, workload.HostNetwork))),
		optional("waypoint", intoPtr(&w.Waypoint, readGateway)),
		optional("networkGateway", intoPtr(&w.NetworkGateway, readGateway)),
		optional("trustDomain", into(&w.TrustDomain, readText)),
		optional("serviceAccount", into(&w.ServiceAccount, readText)),
		optional("network", into(&w.Network, readText)),
		optional("workloadName", into(&w.WorkloadName, readText)),
		optional("workloadType", into(&w.WorkloadType, readText)),
		optional("canonicalName", into(&w.CanonicalName, readText)),
		optional("canonicalRevision", into(&w.CanonicalRevision, readText)),
		optional("hostname", into(&w.Hostname, readText)),
		optional("node", into(&w.Node, readText)),
		optional("nativeTunnel", into(&w.NativeTunnel, readBool)),
		optional("applicationTunnel", intoPtr(&w.ApplicationTunnel, readAppTunnel)),
		optional("authorizationPolicies", intoList(&w.AuthorizationPolicies, readPolicyName)),
		optional("status", into(&w.Status, readStatus)),
		optional("clusterId", into(&w.ClusterID, readText)),
		optional("locality", into(&w.Locality, readLocality)),
		optional("capacity", into(&w.Capacity, readUint32)),
	)
	return w, err
}

func readCIDRVIP(v value) (workload.CIDRVIP, error) {
	var c workload.CIDRVIP
	err := v.object(required("network", into(&c.Network, readText)), required("cidr", into(&c.Prefix, readPrefix)))
	return c, err
}

func readWeightedWaypoint(v value) (workload.WeightedWaypoint, error) {
	var w workload.WeightedWaypoint
	err := v.object(required("destination", into(&w.Gateway, readGateway)), required("weight", into(&w.Weight, readUint32)))
	return w, err
}

func readLoadBalancer(v value) (workload.LoadBalancer, error) {
	var lb workload.LoadBalancer
	scope := readEnum(workload.ScopeRegion, workload.ScopeZone, workload.ScopeSubzone, workload.ScopeNode,
		workload.ScopeCluster, workload.ScopeNetwork)
	mode := readEnum(workload.ModeStandard, workload.ModeStrict, workload.ModeFailover, workload.ModePassthrough)
	err := v.object(
		required("routingPreferences", intoList(&lb.Preferences, scope)),
		required("mode", into(&lb.Mode, mode)),
		required("healthPolicy", into(&lb.HealthPolicy, readEnum(workload.OnlyHealthy, workload.AllowAll))),
	)
	return lb, err
}

func readEndpoints(v value) ([]workload.StaticEndpoint, error) {
	var list []workload.StaticEndpoint
	err := v.pairs(func(key string, item value) error {
		list = append(list, workload.StaticEndpoint{Key: key})
		p := &list[len(list)-1]
		return item.object(
			required("workloadUid", into(&p.WorkloadUID, readText)),
			required("port", into(&p.Ports, readPortMap)),
			required("status", into(&p.Status, readStatus)),
		)
	})
	return list, err
}

// service is a service and the endpoints given with it.
type service struct {
	*workload.Service
	endpoints []workload.StaticEndpoint
}

func readService(v value) (service, error) {
	s := service{Service: &workload.Service{}}
	err := v.object(
		required("name", into(&s.Name, readText)),
		required("namespace", into(&s.Namespace, readText)),
		required("hostname", into(&s.Hostname, readText)),
		required("vips", intoList(&s.VIPs, readNetworkAddress)),
		required("ports", into(&s.Ports, readPortMap)),
		optional("cidrVips", intoList(&s.CIDRVIPs, readCIDRVIP)),
		optional("endpoints", into(&s.endpoints, readEndpoints)),
		optional("subjectAltNames", intoList(&s.SubjectAltNames, readText)),
		optional("waypoint", intoPtr(&s.Waypoint, readGateway)),
		optional("weightedWaypoints", intoList(&s.WeightedWaypoints, readWeightedWaypoint)),
		optional("loadBalancer", intoPtr(&s.LoadBalancer, readLoadBalancer)),
		optional("ipFamilies", into(&s.IPFamilies, readEnum(workload.FamiliesDual, workload.FamiliesIPv4, workload.FamiliesIPv6))),
		optional("canonical", into(&s.Canonical, readBool)),
		optional("visibility", into(&s.Visibility, readEnum(workload.VisibilityPublic, workload.VisibilityNamespace))),
	)
	s.SANs, _ = workload.ParseSANs(s.SubjectAltNames)
	return s, err
}
