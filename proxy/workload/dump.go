package workload

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
)

// The config_dump forms. Fields stand in alphabetical order of their keys, for the dump is sorted at every level; what is
// left out when empty, and what never is, are facts that istioctl and Kiali rely on. Lists are [] rather than null.

type gatewayJSON struct {
	Destination   string `json:"destination"`
	HBONEMTLSPort uint16 `json:"hboneMtlsPort"`
}

type localityJSON struct {
	Region  string `json:"region"`
	Subzone string `json:"subzone"`
	Zone    string `json:"zone"`
}

type appTunnelJSON struct {
	Port     *uint16           `json:"port"`
	Protocol AppTunnelProtocol `json:"protocol"`
}

type workloadJSON struct {
	ApplicationTunnel     *appTunnelJSON `json:"applicationTunnel,omitempty"`
	AuthorizationPolicies []string       `json:"authorizationPolicies,omitempty"`
	CanonicalName         string         `json:"canonicalName,omitempty"`
	CanonicalRevision     string         `json:"canonicalRevision,omitempty"`
	Capacity              uint32         `json:"capacity"`
	ClusterID             string         `json:"clusterId"`
	Hostname              string         `json:"hostname,omitempty"`
	Locality              *localityJSON  `json:"locality,omitempty"`
	Name                  string         `json:"name"`
	Namespace             string         `json:"namespace"`
	NativeTunnel          bool           `json:"nativeTunnel,omitempty"`
	Network               string         `json:"network,omitempty"`
	NetworkGateway        *gatewayJSON   `json:"networkGateway,omitempty"`
	NetworkMode           NetworkMode    `json:"networkMode"`
	Node                  string         `json:"node,omitempty"`
	Protocol              Protocol       `json:"protocol"`
	ServiceAccount        string         `json:"serviceAccount,omitempty"`
	Services              any            `json:"services,omitempty"`
	Status                Status         `json:"status"`
	TrustDomain           string         `json:"trustDomain,omitempty"`
	UID                   string         `json:"uid,omitempty"`
	Waypoint              *gatewayJSON   `json:"waypoint,omitempty"`
	WorkloadIPs           []netip.Addr   `json:"workloadIps"`
	WorkloadName          string         `json:"workloadName,omitempty"`
	WorkloadType          string         `json:"workloadType,omitempty"`
}

type cidrJSON struct {
	CIDR    string `json:"cidr"`
	Network string `json:"network"`
}

type weightedJSON struct {
	Destination *gatewayJSON `json:"destination"`
	Weight      uint32       `json:"weight"`
}

type loadBalancerJSON struct {
	HealthPolicy       HealthPolicy `json:"healthPolicy"`
	Mode               Mode         `json:"mode"`
	RoutingPreferences []Scope      `json:"routingPreferences"`
}

type serviceJSON struct {
	Canonical         bool                    `json:"canonical"`
	CIDRVIPs          []cidrJSON              `json:"cidrVips,omitempty"`
	Endpoints         map[string]EndpointDump `json:"endpoints"`
	Hostname          string                  `json:"hostname"`
	IPFamilies        *IPFamilies             `json:"ipFamilies,omitempty"`
	LoadBalancer      *loadBalancerJSON       `json:"loadBalancer,omitempty"`
	Name              string                  `json:"name"`
	Namespace         string                  `json:"namespace"`
	Ports             PortMap                 `json:"ports"`
	SubjectAltNames   []string                `json:"subjectAltNames"`
	VIPs              []string                `json:"vips"`
	Visibility        Visibility              `json:"visibility"`
	Waypoint          *gatewayJSON            `json:"waypoint,omitempty"`
	WeightedWaypoints []weightedJSON          `json:"weightedWaypoints,omitempty"`
}

// EndpointDump is the config_dump form of one endpoint.
type EndpointDump struct {
	Port        PortMap `json:"port"`
	Status      Status  `json:"status"`
	WorkloadUID string  `json:"workloadUid"`
}

// MarshalText returns String; the enumerations of this package appear in config_dump by it.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// MarshalText returns String.
func (m NetworkMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// MarshalText returns String.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalText returns String.
func (p AppTunnelProtocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// MarshalText returns String.
func (s Scope) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalText returns String.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// MarshalText returns String.
func (p HealthPolicy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// MarshalText returns String.
func (f IPFamilies) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// MarshalText returns String.
func (v Visibility) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// MarshalJSON returns {"destination": "NETWORK/IP" or "NAMESPACE/HOSTNAME", "hboneMtlsPort": PORT}.
func (g Gateway) MarshalJSON() ([]byte, error) { return json.Marshal(dumpGateway(&g)) }

// MarshalText returns "NAMESPACE/HOSTNAME", as the name is written as a map key.
func (n NamespacedHostname) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

func dumpGateway(g *Gateway) *gatewayJSON {
	if g == nil {
		return nil
	}
	return &gatewayJSON{Destination: g.String(), HBONEMTLSPort: g.Port}
}

// notNil makes an empty list of none.
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// MarshalJSON returns the workload as config_dump shows it, with its services as a sorted list of names.
func (w *Workload) MarshalJSON() ([]byte, error) {
	names := make([]string, 0, len(w.Services))
	for key := range w.Services {
		names = append(names, key.String())
	}
	slices.Sort(names)
	form := w.form()
	if len(names) > 0 {
		form.Services = names
	}
	return json.Marshal(form)
}

// MarshalStatic returns the workload as the static part of config_dump shows it: its services are a map of ports.
func (w *Workload) MarshalStatic() (json.RawMessage, error) {
	form := w.form()
	form.Services = w.Services
	if w.Services == nil {
		form.Services = map[NamespacedHostname]PortMap{}
	}
	return json.Marshal(form)
}

// form is everything but the services.
func (w *Workload) form() *workloadJSON {
	form := &workloadJSON{
		AuthorizationPolicies: w.AuthorizationPolicies,
		CanonicalName:         w.CanonicalName,
		CanonicalRevision:     w.CanonicalRevision,
		Capacity:              w.Capacity,
		ClusterID:             w.ClusterID,
		Hostname:              w.Hostname,
		Name:                  w.Name,
		Namespace:             w.Namespace,
		NativeTunnel:          w.NativeTunnel,
		Network:               w.Network,
		NetworkGateway:        dumpGateway(w.NetworkGateway),
		NetworkMode:           w.NetworkMode,
		Node:                  w.Node,
		Protocol:              w.Protocol,
		ServiceAccount:        w.ServiceAccount,
		Status:                w.Status,
		TrustDomain:           w.TrustDomain,
		UID:                   w.UID,
		Waypoint:              dumpGateway(w.Waypoint),
		WorkloadIPs:           notNil(w.Addrs),
		WorkloadName:          w.WorkloadName,
		WorkloadType:          w.WorkloadType,
	}
	if w.Locality != (Locality{}) {
		form.Locality = &localityJSON{Region: w.Locality.Region, Subzone: w.Locality.Subzone, Zone: w.Locality.Zone}
	}
	if t := w.ApplicationTunnel; t != nil {
		form.ApplicationTunnel = &appTunnelJSON{Protocol: t.Protocol}
		if t.Port != 0 {
			form.ApplicationTunnel.Port = &t.Port
		}
	}
	return form
}

// ServiceDump is a service with its endpoints, in the form of config_dump.
type ServiceDump struct {
	*Service
	Endpoints map[string]EndpointDump // by the workload's UID
}

// MarshalJSON returns the service as config_dump shows it, but without endpoints, which it doesn't know; see ServiceDump.
func (s *Service) MarshalJSON() ([]byte, error) { return ServiceDump{Service: s}.MarshalJSON() }

// MarshalJSON returns the service and its endpoints as config_dump shows them.
func (d ServiceDump) MarshalJSON() ([]byte, error) {
	s := d.Service
	form := &serviceJSON{
		Canonical:       s.Canonical,
		Endpoints:       d.Endpoints,
		Hostname:        s.Hostname,
		Name:            s.Name,
		Namespace:       s.Namespace,
		Ports:           s.Ports,
		SubjectAltNames: notNil(s.SubjectAltNames),
		VIPs:            make([]string, 0, len(s.VIPs)),
		Visibility:      s.Visibility,
		Waypoint:        dumpGateway(s.Waypoint),
	}
	if form.Endpoints == nil {
		form.Endpoints = map[string]EndpointDump{}
	}
	if form.Ports == nil {
		form.Ports = PortMap{}
	}
	for _, vip := range s.VIPs {
		form.VIPs = append(form.VIPs, vip.String())
	}
	for _, c := range s.CIDRVIPs {
		form.CIDRVIPs = append(form.CIDRVIPs, cidrJSON{CIDR: c.Prefix.String(), Network: c.Network})
	}
	for i := range s.WeightedWaypoints {
		w := &s.WeightedWaypoints[i]
		form.WeightedWaypoints = append(form.WeightedWaypoints, weightedJSON{Destination: dumpGateway(&w.Gateway), Weight: w.Weight})
	}
	if lb := s.LoadBalancer; lb != nil {
		form.LoadBalancer = &loadBalancerJSON{HealthPolicy: lb.HealthPolicy, Mode: lb.Mode, RoutingPreferences: notNil(lb.Preferences)}
	}
	if s.IPFamilies != FamiliesAutomatic {
		form.IPFamilies = &s.IPFamilies
	}
	return json.Marshal(form)
}

// Workloads returns all workloads, sorted by UID.
func (s *Store) Workloads() []*Workload {
	s.mu.RLock()
	list := make([]*Workload, 0, len(s.ix.byUID))
	for _, r := range s.ix.byUID {
		list = append(list, r.w)
	}
	s.mu.RUnlock()
	slices.SortFunc(list, func(a, b *Workload) int { return cmp.Compare(a.UID, b.UID) })
	return list
}

// Services returns all known services, sorted by hostname and then by when they became known.
func (s *Store) Services() []*Service {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]*Service, 0, len(s.ix.services))
	for _, host := range slices.Sorted(maps.Keys(s.ix.byHost)) {
		for _, e := range s.ix.byHost[host] {
			list = append(list, e.svc)
		}
	}
	return list
}

// DumpServices returns all known services in the order of Services, each with the endpoints that its health policy
// accepts and, as in the reference's dump, endpoints given with the service whose workload is unknown.
func (s *Store) DumpServices() []ServiceDump {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]ServiceDump, 0, len(s.ix.services))
	for _, host := range slices.Sorted(maps.Keys(s.ix.byHost)) {
		for _, e := range s.ix.byHost[host] {
			list = append(list, ServiceDump{Service: e.svc, Endpoints: e.dump(e.svc.Accepts)})
		}
	}
	return list
}

// StagedEndpoints returns the endpoints of services that are not known, by service and workload UID.
func (s *Store) StagedEndpoints() map[NamespacedHostname]map[string]EndpointDump {
	staged := make(map[NamespacedHostname]map[string]EndpointDump)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for key, e := range s.ix.services {
		if e.svc == nil {
			staged[key] = e.dump(func(Status) bool { return true })
		}
	}
	return staged
}

// dump returns the accepted endpoints of the entry; what a workload declares goes over what came with the service.
func (e *entry) dump(accepted func(Status) bool) map[string]EndpointDump {
	out := make(map[string]EndpointDump, len(e.members)+len(e.static))
	for _, s := range e.static {
		if accepted(s.Status) {
			out[s.Key] = EndpointDump{Port: s.Ports, Status: s.Status, WorkloadUID: s.WorkloadUID}
		}
	}
	for i := range e.members {
		m := e.members[i].endpoint()
		delete(out, m.Workload.UID)
		if accepted(m.Status) {
			out[m.Workload.UID] = EndpointDump{Port: m.Ports, Status: m.Status, WorkloadUID: m.Workload.UID}
		}
	}
	for uid, d := range out {
		if d.Port == nil {
			d.Port = PortMap{}
			out[uid] = d
		}
	}
	return out
}
