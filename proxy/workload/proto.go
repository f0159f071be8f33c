package workload

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	api "ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/spiffe"
)

// What the control plane leaves out when it has this value.
const defaultClusterID = "Kubernetes"

// Errors of the conversion. The texts are the reference's, for the control plane shows them to its operator.
var (
	// ErrMissingGateway says that a waypoint or network gateway has no destination.
	ErrMissingGateway = errors.New("nonempty gateway address is missing address")
	// ErrNoAddress says that a resource is neither workload nor service.
	ErrNoAddress = errors.New("address is neither workload nor service")
)

// AddressError says that an IP address had a length that none has.
type AddressError struct{ Bytes int }

// Error returns "failed to parse address, had N bytes".
func (e *AddressError) Error() string {
	return fmt.Sprintf("failed to parse address, had %d bytes", e.Bytes)
}

// EnumError says that an enumeration had a number of which this version knows nothing. The resource is refused rather than
// guessed at.
type EnumError struct{ Number int32 }

// Error returns "decode error: unknown enumeration value N".
func (e *EnumError) Error() string {
	return fmt.Sprintf("decode error: unknown enumeration value %d", e.Number)
}

// FromProto converts one resource of the type istio.workload.Address: exactly one of workload and service is not nil when
// err is. The Interner may be nil. The result keeps nothing of the message but strings. A workload's name is, where it can
// be, a part of the string of its UID: who wants the UID to be another, equal string puts that into the message.
func FromProto(a *api.Address, in *Interner) (*Workload, *Service, error) {
	switch t := a.GetType().(type) {
	case *api.Address_Workload:
		w, err := WorkloadFromProto(t.Workload, in)
		return w, nil, err
	case *api.Address_Service:
		s, err := ServiceFromProto(t.Service, in)
		return nil, s, err
	}
	return nil, nil, ErrNoAddress
}

// WorkloadFromProto converts a workload. Empty trust domain, service account and cluster mean Istio's defaults.
func WorkloadFromProto(pb *api.Workload, in *Interner) (*Workload, error) { //nolint:revive // FromProto takes a whole resource
	w := &Workload{
		UID:                   pb.GetUid(),
		Name:                  part(pb.GetUid(), pb.GetName()),
		Namespace:             in.string(pb.GetNamespace()),
		TrustDomain:           in.string(orDefault(pb.GetTrustDomain(), spiffe.DefaultTrustDomain)),
		ServiceAccount:        in.string(orDefault(pb.GetServiceAccount(), spiffe.DefaultServiceAccount)),
		Network:               in.string(pb.GetNetwork()),
		WorkloadName:          in.string(pb.GetWorkloadName()),
		WorkloadType:          workloadType(pb.GetWorkloadType()),
		CanonicalName:         in.string(pb.GetCanonicalName()),
		CanonicalRevision:     in.string(pb.GetCanonicalRevision()),
		Hostname:              in.string(pb.GetHostname()),
		Node:                  in.string(pb.GetNode()),
		ClusterID:             in.string(orDefault(pb.GetClusterId(), defaultClusterID)),
		NativeTunnel:          pb.GetNativeTunnel(),
		AuthorizationPolicies: internAll(pb.GetAuthorizationPolicies(), in),
		Locality: Locality{
			Region:  in.string(pb.GetLocality().GetRegion()),
			Zone:    in.string(pb.GetLocality().GetZone()),
			Subzone: in.string(pb.GetLocality().GetSubzone()),
		},
		Capacity: 1,
	}
	if c := pb.GetCapacity(); c != nil {
		w.Capacity = c.GetValue()
	}
	if err := w.enumsFromProto(pb); err != nil {
		return nil, err
	}
	var err error
	if w.Addrs, err = addrsFromProto(pb.GetAddresses()); err != nil {
		return nil, err
	}
	if w.Waypoint, err = gatewayFromProto(pb.GetWaypoint(), in); err != nil {
		return nil, err
	}
	if w.NetworkGateway, err = gatewayFromProto(pb.GetNetworkGateway(), in); err != nil {
		return nil, err
	}
	if w.ApplicationTunnel, err = appTunnelFromProto(pb.GetApplicationTunnel()); err != nil {
		return nil, err
	}
	if w.Services, err = in.serviceMap(pb.GetServices()); err != nil {
		return nil, err
	}
	return w, nil
}

// part returns name, as a part of the UID if the UID ends with it: those of pods do.
func part(uid, name string) string {
	if strings.HasSuffix(uid, name) {
		return uid[len(uid)-len(name):]
	}
	return name
}

// servicesFromProto converts what a workload says of its services; none are nil.
func servicesFromProto(pb map[string]*api.PortList, in *Interner) (map[NamespacedHostname]PortMap, error) {
	if len(pb) == 0 {
		return nil, nil
	}
	services := make(map[NamespacedHostname]PortMap, len(pb))
	for _, name := range slices.Sorted(maps.Keys(pb)) { // so that of several errors it is always the same
		key, ok := ParseNamespacedHostname(name)
		if !ok {
			return nil, fmt.Errorf("failed to parse namespaced hostname: %s", name)
		}
		key.Namespace, key.Hostname = in.string(key.Namespace), in.string(key.Hostname)
		services[key] = in.portMap(pb[name].GetPorts())
	}
	return services, nil
}

// enumsFromProto sets those enumerations of which an unknown number refuses the workload.
func (w *Workload) enumsFromProto(pb *api.Workload) error {
	if pb.GetTunnelProtocol() == api.TunnelProtocol_LEGACY_ISTIO_MTLS {
		return errors.New("unknown enum: LEGACY_ISTIO_MTLS")
	}
	err := cmp.Or(known(pb.GetTunnelProtocol(), api.TunnelProtocol_name), known(pb.GetNetworkMode(), api.NetworkMode_name),
		known(pb.GetStatus(), api.WorkloadStatus_name))
	if err != nil {
		return err
	}
	if pb.GetTunnelProtocol() == api.TunnelProtocol_HBONE {
		w.Protocol = HBONE
	}
	if pb.GetNetworkMode() == api.NetworkMode_HOST_NETWORK {
		w.NetworkMode = HostNetwork
	}
	if pb.GetStatus() == api.WorkloadStatus_UNHEALTHY {
		w.Status = Unhealthy
	}
	return nil
}

// ServiceFromProto converts a service. Subject alternative names that are no identities are kept as text alone.
func ServiceFromProto(pb *api.Service, in *Interner) (*Service, error) {
	s := &Service{
		Name:            in.string(pb.GetName()),
		Namespace:       in.string(pb.GetNamespace()),
		Hostname:        in.string(pb.GetHostname()),
		Ports:           in.portMap(pb.GetPorts()),
		SubjectAltNames: internAll(pb.GetSubjectAltNames(), in),
		Canonical:       pb.GetCanonical(),
	}
	s.SANs, _ = ParseSANs(s.SubjectAltNames)
	// A visibility of a newer control plane fails open.
	if pb.GetVisibility() == api.Service_NAMESPACE {
		s.Visibility = VisibilityNamespace
	}
	var err error
	if s.IPFamilies, err = familiesFromProto(pb.GetIpFamilies()); err != nil {
		return nil, err
	}
	for _, a := range pb.GetAddresses() {
		if err := s.addVIP(a, in); err != nil {
			return nil, err
		}
	}
	if s.Waypoint, err = gatewayFromProto(pb.GetWaypoint(), in); err != nil {
		return nil, err
	}
	for _, pw := range pb.GetWeightedWaypoints() {
		g, err := gatewayFromProto(pw.GetDestination(), in)
		if err != nil {
			return nil, err
		}
		if g == nil {
			return nil, ErrMissingGateway
		}
		s.WeightedWaypoints = append(s.WeightedWaypoints, WeightedWaypoint{Gateway: *g, Weight: pw.GetWeight()})
	}
	s.LoadBalancer, err = loadBalancerFromProto(pb.GetLoadBalancing())
	if err != nil {
		return nil, err
	}
	return s, nil
}

// addVIP adds an address, or a range if it has a length other than an address's own.
func (s *Service) addVIP(pb *api.NetworkAddress, in *Interner) error {
	a, err := networkAddressFromProto(pb, in)
	if err != nil {
		return err
	}
	if pb.Length == nil || pb.GetLength() == uint32(a.Addr.BitLen()) {
		s.VIPs = append(s.VIPs, a)
		return nil
	}
	if pb.GetLength() > uint32(a.Addr.BitLen()) {
		return fmt.Errorf("invalid cidr: prefix length %d of address %s", pb.GetLength(), a.Addr)
	}
	p := netip.PrefixFrom(a.Addr, int(pb.GetLength()))
	s.CIDRVIPs = append(s.CIDRVIPs, CIDRVIP{Network: a.Network, Prefix: p})
	return nil
}

func loadBalancerFromProto(pb *api.LoadBalancing) (*LoadBalancer, error) {
	if pb == nil {
		return nil, nil
	}
	lb := &LoadBalancer{}
	for _, scope := range pb.GetRoutingPreference() {
		if err := known(scope, api.LoadBalancing_Scope_name); err != nil {
			return nil, err
		}
		if scope == api.LoadBalancing_UNSPECIFIED_SCOPE {
			return nil, errors.New("unknown enum: invalid target")
		}
		lb.Preferences = append(lb.Preferences, Scope(scope)) // the numbers are the same
	}
	if err := cmp.Or(known(pb.GetMode(), api.LoadBalancing_Mode_name), known(pb.GetHealthPolicy(), api.LoadBalancing_HealthPolicy_name)); err != nil {
		return nil, err
	}
	lb.Mode = Mode(pb.GetMode()) // the same
	if pb.GetHealthPolicy() == api.LoadBalancing_ALLOW_ALL {
		lb.HealthPolicy = AllowAll
	}
	return lb, nil
}

func familiesFromProto(f api.IPFamilies) (IPFamilies, error) {
	if err := known(f, api.IPFamilies_name); err != nil {
		return 0, err
	}
	return IPFamilies(f), nil // the numbers are the same
}

func appTunnelFromProto(pb *api.ApplicationTunnel) (*ApplicationTunnel, error) {
	if pb == nil {
		return nil, nil
	}
	if err := known(pb.GetProtocol(), api.ApplicationTunnel_Protocol_name); err != nil {
		return nil, err
	}
	t := &ApplicationTunnel{Port: uint16(pb.GetPort())}
	if pb.GetProtocol() == api.ApplicationTunnel_PROXY {
		t.Protocol = AppTunnelProxy
	}
	return t, nil
}

// gatewayFromProto converts a gateway; none is nil. The length of an address is ignored.
func gatewayFromProto(pb *api.GatewayAddress, in *Interner) (*Gateway, error) {
	if pb == nil {
		return nil, nil
	}
	g := Gateway{Port: uint16(pb.GetHboneMtlsPort())}
	switch d := pb.GetDestination().(type) {
	case *api.GatewayAddress_Hostname:
		g.Hostname = NamespacedHostname{in.string(d.Hostname.GetNamespace()), in.string(d.Hostname.GetHostname())}
	case *api.GatewayAddress_Address:
		a, err := networkAddressFromProto(d.Address, in)
		if err != nil {
			return nil, err
		}
		g.Address = a
	default:
		return nil, ErrMissingGateway
	}
	return in.gateway(g), nil
}

func networkAddressFromProto(pb *api.NetworkAddress, in *Interner) (NetworkAddress, error) {
	addr, err := addrFromProto(pb.GetAddress())
	return NetworkAddress{Network: in.string(pb.GetNetwork()), Addr: addr}, err
}

// addrFromProto takes 4 or 16 bytes; a v4-mapped IPv6 address stays one.
func addrFromProto(b []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, &AddressError{Bytes: len(b)}
	}
	return a, nil
}

func addrsFromProto(list [][]byte) ([]netip.Addr, error) {
	if len(list) == 0 {
		return nil, nil
	}
	addrs := make([]netip.Addr, len(list))
	for i, b := range list {
		var err error
		if addrs[i], err = addrFromProto(b); err != nil {
			return nil, err
		}
	}
	return addrs, nil
}

// portsFromProto cuts ports to 16 bits, as the reference does. Of two entries for one port the last counts.
func portsFromProto(list []*api.Port) PortMap {
	m := make(PortMap, len(list))
	for _, p := range list {
		m[uint16(p.GetServicePort())] = uint16(p.GetTargetPort())
	}
	return m
}

func workloadType(t api.WorkloadType) string {
	if name, ok := workloadTypes[t]; ok {
		return name
	}
	return workloadTypes[api.WorkloadType_DEPLOYMENT]
}

var workloadTypes = map[api.WorkloadType]string{
	api.WorkloadType_DEPLOYMENT: "deployment",
	api.WorkloadType_CRONJOB:    "cronjob",
	api.WorkloadType_POD:        "pod",
	api.WorkloadType_JOB:        "job",
}

// known returns an *EnumError if the number is not among the names.
func known[E ~int32](e E, names map[int32]string) error {
	if _, ok := names[int32(e)]; !ok {
		return &EnumError{Number: int32(e)}
	}
	return nil
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func internAll(list []string, in *Interner) []string {
	if len(list) == 0 {
		return nil
	}
	out := make([]string, len(list))
	for i := range list {
		out[i] = in.string(list[i])
	}
	return out
}
