package interop

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/console"
	"ztunnel/loadtest/control"
	"ztunnel/loadtest/mesh"
	"ztunnel/proxy/api/securityapi"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/spiffe"
)

// The networks: that of the client and most others, and the one behind the
// gateway.
const (
	home   = "home"
	abroad = "abroad"
)

// The ports of services and applications.
const (
	servicePort = 7
	targetPort  = 7007
)

// The identities.
var (
	shopID     = identity("shop", "shopper")
	strangerID = identity("other", "stranger")
	keeperID   = identity("stock", "keeper")
	waypointID = identity("stock", "waypoint")
	gatewayID  = identity("istio-gateways", "eastwest")
	depotID    = identity("remote", "depot")
)

// The names of services.
const (
	keeperHost   = "keeper.stock.svc.cluster.local"
	waypointHost = "waypoint.stock.svc.cluster.local"
	sandwichHost = "sandwich.stock.svc.cluster.local"
	depotHost    = "depot.remote.svc.cluster.local"
)

func identity(namespace, account string) spiffe.ID {
	return spiffe.ID{TrustDomain: cluster.TrustDomain, Namespace: namespace, ServiceAccount: account}
}

// world is the mesh of the test.
type world struct {
	family
	cluster *cluster.Cluster
	cfg     Config

	near, far, away, edge *cluster.Node       // edge has the Envoys and no ztunnel
	ztunnels              [3]*cluster.Ztunnel // of near, far and away

	shop, stranger *cluster.Pod // near
	keeper         *cluster.Pod // far
	depot          *cluster.Pod // away
	gatewayPod     *cluster.Pod

	envoys         []*envoy // all that were started
	first, current *envoy   // waypoints
	gateway        *envoy

	sessions []*app.Session // that are open
	sent     []app.Exchange // to the service with the waypoint, complete
	remote   []app.Exchange // to the other network, complete
}

func (w *world) client() *cluster.Ztunnel { return w.ztunnels[0] }
func (w *world) server() *cluster.Ztunnel { return w.ztunnels[1] }
func (w *world) remoteServer() *cluster.Ztunnel {
	return w.ztunnels[2]
}

func (w *world) steps() []console.Step {
	return []console.Step{
		{What: "start a control plane, four nodes in two networks, three ztunnels", Do: w.makeNodes},
		{What: "add captured pods, and those of waypoint and gateway", Do: w.makePods},
		{What: "tell the control plane of services and policies", Do: w.makeServices},
		{What: "start Envoy as a waypoint", Do: func(ctx context.Context) (_ string, err error) {
			w.first, err = w.addWaypoint(ctx, "waypoint-1", 0)
			w.current = w.first
			return "", err
		}},
		{What: "start Envoy as the gateway of the other network", Do: w.startGateway},
		{What: "wait until the ztunnels know everything", Do: func(ctx context.Context) (string, error) { return "", w.settle(ctx) }},
	}
}

func (w *world) makeNodes(ctx context.Context) (string, error) {
	for _, n := range []struct {
		at            **cluster.Node
		network, name string
	}{{&w.near, home, "near"}, {&w.far, home, "far"}, {&w.away, abroad, "away"}, {&w.edge, home, "edge"}} {
		node, err := w.cluster.AddNodeIn(n.network, n.name)
		if err != nil {
			return "", err
		}
		*n.at = node
	}
	for i, node := range []*cluster.Node{w.near, w.far, w.away} {
		z, err := node.StartZtunnel()
		if err != nil {
			return "", err
		}
		w.ztunnels[i] = z
	}
	for _, z := range w.ztunnels {
		ctx, cancel := context.WithTimeout(ctx, envoyLimit)
		defer cancel()
		if err := z.AwaitReady(ctx); err != nil {
			return "", err
		}
	}
	return "", nil
}

func (w *world) makePods(ctx context.Context) (_ string, err error) {
	// First: the pods behind it name its address.
	if w.gatewayPod, err = w.edge.NewPod(cluster.Spec{Name: "eastwest-0", ID: gatewayID}); err != nil {
		return "", err
	}
	for _, p := range []struct {
		at      **cluster.Pod
		node    *cluster.Node
		id      spiffe.ID
		service *workloadapi.Service
	}{
		{&w.shop, w.near, shopID, nil},
		{&w.stranger, w.near, strangerID, nil},
		{&w.keeper, w.far, keeperID, w.keeperService()},
		{&w.depot, w.away, depotID, w.depotService(depotID)},
	} {
		spec := cluster.Spec{Name: p.id.ServiceAccount + "-0", ID: p.id, Adapt: w.behindGateway(p.node)}
		if p.service != nil {
			spec.Services = []*workloadapi.Service{p.service}
		}
		pod, err := p.node.AddPod(ctx, spec)
		if err != nil {
			return "", err
		}
		*p.at = pod
		if p.service != nil {
			if err := w.cluster.Apps.Echo(ctx, pod.Namespace, targetPort); err != nil {
				return "", err
			}
		}
	}
	return "", nil
}

// behindGateway says of the pods of the other network how to reach them.
func (w *world) behindGateway(n *cluster.Node) func(*workloadapi.Workload) {
	if n.Network != abroad {
		return nil
	}
	return func(workload *workloadapi.Workload) {
		workload.NetworkGateway = &workloadapi.GatewayAddress{
			Destination: &workloadapi.GatewayAddress_Address{Address: &workloadapi.NetworkAddress{
				Network: abroad, Address: w.addr(w.gatewayPod).AsSlice(),
			}},
			HboneMtlsPort: mesh.HBONEPort,
		}
	}
}

func echo(namespace, name string, vip netip.AddrPort) *workloadapi.Service {
	return control.Service(control.ServiceSpec{
		Network: home, Namespace: namespace, Name: name, VIPs: []netip.Addr{vip.Addr()},
		Ports: []control.Port{{Port: vip.Port(), Target: targetPort}},
	})
}

// byHostname is how istiod refers to a waypoint.
func byHostname(host string) *workloadapi.GatewayAddress {
	return &workloadapi.GatewayAddress{
		Destination: &workloadapi.GatewayAddress_Hostname{Hostname: &workloadapi.NamespacedHostname{
			Namespace: waypointID.Namespace, Hostname: host,
		}},
		HboneMtlsPort: mesh.HBONEPort,
	}
}

func (w *world) keeperService() *workloadapi.Service {
	s := echo(keeperID.Namespace, keeperID.ServiceAccount, w.keeperVIP)
	s.Waypoint = byHostname(waypointHost)
	return s
}

// depotService is served by pods of an identity.
func (w *world) depotService(id spiffe.ID) *workloadapi.Service {
	s := echo(depotID.Namespace, depotID.ServiceAccount, w.depotVIP)
	s.SubjectAltNames = []string{id.String()}
	return s
}

func waypointService(name string, vip netip.Addr) *workloadapi.Service {
	return control.Service(control.ServiceSpec{
		Network: home, Namespace: waypointID.Namespace, Name: name, VIPs: []netip.Addr{vip},
		Ports: []control.Port{{Port: mesh.HBONEPort, Target: mesh.HBONEPort}},
	})
}

// makeServices lets nobody but the waypoint use the stock, and nobody but the
// shop use what is remote.
func (w *world) makeServices(context.Context) (string, error) {
	allow := func(id, by spiffe.ID) *securityapi.Authorization {
		return control.AllowPolicy(control.PolicySpec{
			Namespace: id.Namespace, Name: "only-" + by.ServiceAccount, Principals: []string{by.Principal()}, Ports: []uint16{targetPort},
		})
	}
	return "", w.cluster.Plane.Update(control.Update{
		Services: []*workloadapi.Service{w.keeperService(), waypointService("waypoint", w.waypointVIP), w.depotService(depotID)},
		Policies: []*securityapi.Authorization{allow(keeperID, waypointID), allow(depotID, shopID)},
	})
}

// addWaypoint starts an Envoy and makes it an endpoint of the waypoint's service.
func (w *world) addWaypoint(ctx context.Context, name string, maxRequests int) (*envoy, error) {
	pod, err := w.edge.NewPod(cluster.Spec{Name: name, ID: waypointID, Services: []*workloadapi.Service{waypointService("waypoint", w.waypointVIP)}})
	if err != nil {
		return nil, err
	}
	e, err := w.runWaypoint(ctx, pod, maxRequests)
	if err != nil {
		return nil, err
	}
	return e, pod.Publish(false)
}

// runWaypoint starts an Envoy as the waypoint of the service in a pod.
func (w *world) runWaypoint(ctx context.Context, pod *cluster.Pod, maxRequests int) (*envoy, error) {
	return w.startEnvoy(ctx, pod, func(own files) ([]byte, error) {
		return waypoint{
			files: own, listen: w.addr(pod), maxRequests: maxRequests, servers: []spiffe.ID{keeperID},
			services: []serviceRoute{{"keeper", w.keeperVIP, w.at(w.keeper, targetPort)}},
		}.config()
	})
}

func (w *world) startGateway(ctx context.Context) (_ string, err error) {
	w.gateway, err = w.startEnvoy(ctx, w.gatewayPod, func(own files) ([]byte, error) {
		return gateway{files: own, listen: w.addr(w.gatewayPod), services: []gatewayRoute{
			{"depot", fmt.Sprintf("%s:%d", depotHost, servicePort), w.addr(w.depot)},
		}}.config()
	})
	if err != nil {
		return "", err
	}
	return "", w.expectGateway(gatewayID)
}

// expectGateway tells the control plane of the gateway, with an identity, as
// istiod tells of those of other networks.
func (w *world) expectGateway(id spiffe.ID) error {
	w.gatewayPod.Adapt = func(workload *workloadapi.Workload) {
		workload.Uid = fmt.Sprintf("NetworkGateway/%s/%s/%d", abroad, w.addr(w.gatewayPod), mesh.HBONEPort)
		workload.Network, workload.Namespace, workload.ServiceAccount = abroad, id.Namespace, id.ServiceAccount
	}
	return w.gatewayPod.Publish(false)
}

// settle waits until all ztunnels have acknowledged everything.
func (w *world) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	return app.Retry(ctx, pollEvery, func() error {
		if s := w.cluster.Plane.Stats(); s.Streams != len(w.ztunnels) || s.Behind > 0 || s.Nacks > 0 {
			return fmt.Errorf("%d ztunnels are connected to the control plane, %d of them have not acknowledged all, %d have refused something: %s",
				s.Streams, s.Behind, s.Nacks, s.LastNack)
		}
		return nil
	})
}

// open opens a session that the end of the run closes at the latest.
func (w *world) open(ctx context.Context, to netip.AddrPort) (*app.Session, error) {
	s, err := app.Open(ctx, w.shop.Namespace, to)
	if err == nil {
		w.sessions = append(w.sessions, s)
	}
	return s, err
}

func (w *world) closeSessions() {
	for _, s := range w.sessions {
		s.Close()
	}
}

// since is a duration as people read it.
func since(start time.Time) string { return console.Took(time.Since(start)) }
