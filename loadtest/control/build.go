package control

import (
	"cmp"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/types/known/emptypb"

	"ztunnel/proxy/api/securityapi"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/spiffe"
)

// PodSpec is what [Pod] needs to know.
type PodSpec struct {
	Cluster        string // Kubernetes if empty
	Network        string
	TrustDomain    string // left out of the message if it is cluster.local
	Namespace      string
	Name           string
	ServiceAccount string // default if empty
	Node           string
	App            string // its canonical name in telemetry; Name if empty
	Revision       string // its canonical revision; latest if empty
	Workload       string // name of its Deployment or the like; App if empty
	Addresses      []netip.Addr
	Locality       *workloadapi.Locality
	HostNetwork    bool
	// Captured pods are in the mesh: a ztunnel takes their HBONE.
	Captured bool
	// NotReady pods are no endpoints of their services.
	NotReady bool
	// Policies that select the pod, as NAMESPACE/NAME.
	Policies []string
	// Services of which it is an endpoint. Named ports, whose target is 0, stand
	// for the pod's port of the same number.
	Services []*workloadapi.Service
}

// Pod returns the workload that istiod makes of a running pod.
func Pod(s PodSpec) *workloadapi.Workload {
	cluster := cmp.Or(s.Cluster, defaultCluster)
	app := cmp.Or(s.App, s.Name)
	w := &workloadapi.Workload{
		Uid:                   cluster + "//Pod/" + s.Namespace + "/" + s.Name,
		Name:                  s.Name,
		Namespace:             s.Namespace,
		Network:               s.Network,
		ServiceAccount:        cmp.Or(s.ServiceAccount, spiffe.DefaultServiceAccount),
		Node:                  s.Node,
		CanonicalName:         app,
		CanonicalRevision:     cmp.Or(s.Revision, "latest"),
		WorkloadType:          workloadapi.WorkloadType_POD,
		WorkloadName:          cmp.Or(s.Workload, app),
		Locality:              s.Locality,
		ClusterId:             cluster,
		AuthorizationPolicies: s.Policies,
	}
	for _, address := range s.Addresses {
		w.Addresses = append(w.Addresses, address.AsSlice())
	}
	if s.TrustDomain != spiffe.DefaultTrustDomain {
		w.TrustDomain = s.TrustDomain
	}
	if s.HostNetwork {
		w.NetworkMode = workloadapi.NetworkMode_HOST_NETWORK
	}
	if s.Captured {
		w.TunnelProtocol = workloadapi.TunnelProtocol_HBONE
	}
	if s.NotReady {
		w.Status = workloadapi.WorkloadStatus_UNHEALTHY
	}
	for _, service := range s.Services {
		addEndpoint(w, service)
	}
	return w
}

// addEndpoint makes a workload an endpoint of a service. A workload has no
// application protocols.
func addEndpoint(w *workloadapi.Workload, s *workloadapi.Service) {
	list := &workloadapi.PortList{}
	for _, port := range s.GetPorts() {
		list.Ports = append(list.Ports, &workloadapi.Port{
			ServicePort: port.GetServicePort(),
			TargetPort:  cmp.Or(port.GetTargetPort(), port.GetServicePort()),
		})
	}
	if w.Services == nil {
		w.Services = map[string]*workloadapi.PortList{}
	}
	w.Services[s.GetNamespace()+"/"+s.GetHostname()] = list
}

// ServiceSpec is what [Service] needs to know.
type ServiceSpec struct {
	Network   string // of the addresses
	Namespace string
	Name      string
	Domain    string       // of the cluster; cluster.local if empty
	VIPs      []netip.Addr // none: a headless service
	Ports     []Port
}

// Port is a port of a service.
type Port struct {
	Port, Target uint16 // Target 0: a named port, which each pod has its own number for
	Protocol     workloadapi.AppProtocol
}

// Service returns what istiod makes of a Kubernetes Service.
func Service(s ServiceSpec) *workloadapi.Service {
	service := &workloadapi.Service{
		Name:      s.Name,
		Namespace: s.Namespace,
		Hostname:  s.Name + "." + s.Namespace + ".svc." + cmp.Or(s.Domain, "cluster.local"),
		Canonical: true,
	}
	v4, v6 := false, false
	for _, vip := range s.VIPs {
		service.Addresses = append(service.Addresses, &workloadapi.NetworkAddress{Network: s.Network, Address: vip.AsSlice()})
		v4, v6 = v4 || vip.Is4(), v6 || vip.Is6()
	}
	switch {
	case v4 && v6:
		service.IpFamilies = workloadapi.IPFamilies_DUAL
	case v6:
		service.IpFamilies = workloadapi.IPFamilies_IPV6_ONLY
	default:
		service.IpFamilies = workloadapi.IPFamilies_IPV4_ONLY
	}
	for _, port := range s.Ports {
		service.Ports = append(service.Ports, &workloadapi.Port{
			ServicePort: uint32(port.Port), TargetPort: uint32(port.Target), AppProtocol: port.Protocol,
		})
	}
	return service
}

// PolicySpec is what [AllowPolicy] and [DenyPolicy] need to know. All that is
// given must fit a connection; of each kind, one value. With nothing given, the
// policy matches no connection at all; see MatchAll.
type PolicySpec struct {
	Namespace, Name string
	// Selector policies hold for the workloads that name them.
	Selector bool
	// Mesh policies hold for all namespaces: those of istiod's root namespace.
	Mesh bool
	// MatchAll matches every connection. Nothing else may be given.
	MatchAll bool

	// Principals are TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, and Namespaces are of
	// the client. A star is a wildcard at the beginning or the end; alone it
	// means any client that has an identity.
	Principals []string
	Namespaces []string
	SourceIPs  []netip.Prefix
	Ports      []uint16 // of the destination
}

// AllowPolicy returns what istiod makes of an AuthorizationPolicy that allows.
func AllowPolicy(s PolicySpec) *securityapi.Authorization {
	return policy(s, securityapi.Action_ALLOW)
}

// DenyPolicy returns what istiod makes of an AuthorizationPolicy that denies.
func DenyPolicy(s PolicySpec) *securityapi.Authorization {
	return policy(s, securityapi.Action_DENY)
}

func policy(s PolicySpec, action securityapi.Action) *securityapi.Authorization {
	a := &securityapi.Authorization{Name: s.Name, Namespace: s.Namespace, Scope: securityapi.Scope_NAMESPACE, Action: action}
	switch {
	case s.Selector:
		a.Scope = securityapi.Scope_WORKLOAD_SELECTOR
	case s.Mesh:
		a.Scope = securityapi.Scope_GLOBAL
	}
	// What it is about and whom it comes from are clauses of their own.
	rule := &securityapi.Rule{}
	if len(s.Ports) > 0 {
		to := &securityapi.Match{}
		for _, port := range s.Ports {
			to.DestinationPorts = append(to.DestinationPorts, uint32(port))
		}
		rule.Clauses = append(rule.Clauses, &securityapi.Clause{Matches: []*securityapi.Match{to}})
	}
	from := &securityapi.Match{Principals: patterns(s.Principals), Namespaces: patterns(s.Namespaces)}
	for _, prefix := range s.SourceIPs {
		from.SourceIps = append(from.SourceIps, &securityapi.Address{
			Address: prefix.Addr().AsSlice(), Length: uint32(max(prefix.Bits(), 0)),
		})
	}
	if len(from.Principals)+len(from.Namespaces)+len(from.SourceIps) > 0 {
		rule.Clauses = append(rule.Clauses, &securityapi.Clause{Matches: []*securityapi.Match{from}})
	}
	if len(rule.Clauses) > 0 || s.MatchAll {
		a.Rules = []*securityapi.Rule{rule}
	}
	return a
}

// patterns translates the stars of Istio's policies.
func patterns(values []string) (matches []*securityapi.StringMatch) {
	for _, value := range values {
		m := &securityapi.StringMatch{}
		if suffix, ok := strings.CutPrefix(value, "*"); ok && suffix == "" {
			m.MatchType = &securityapi.StringMatch_Presence{Presence: &emptypb.Empty{}}
		} else if ok {
			m.MatchType = &securityapi.StringMatch_Suffix{Suffix: suffix}
		} else if prefix, ok := strings.CutSuffix(value, "*"); ok {
			m.MatchType = &securityapi.StringMatch_Prefix{Prefix: prefix}
		} else {
			m.MatchType = &securityapi.StringMatch_Exact{Exact: value}
		}
		matches = append(matches, m)
	}
	return matches
}
