package show

import (
	"context"
	"errors"
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

const (
	// The service of the demonstration, and its ports.
	serviceHost = "keeper.stock.svc.cluster.local"
	webService  = 80 // HTTP, for people who look around
	webTarget   = 8080
	echoService = 7
	echoTarget  = 7007
)

// The addresses of the service. Nobody has them: they exist in the mesh alone.
var (
	serviceAddr  = netip.MustParseAddr("10.96.0.10")
	serviceAddr6 = netip.MustParseAddr("fd00:96::10")
)

// drainDeadline is how long a ztunnel may take to end: longer than the
// demonstration of it, so that it ends for a better reason.
const drainDeadline = 30 * time.Second

// world is the mesh of the demonstration.
type world struct {
	cluster *cluster.Cluster
	dir     string // for files
	built   bool
	claims  bool // the ztunnels claim what only that of this repository does

	nodes    [2]*cluster.Node
	ztunnels [2]*cluster.Ztunnel

	shopper, prometheus, stranger *cluster.Pod // on the first node
	keeper, packer                *cluster.Pod // on the second
	outsider                      *cluster.Pod // on the first, not captured
	added                         *cluster.Pod // while everything runs

	capture          *mesh.Capture
	secret           []byte
	packets          *mesh.Packets  // of capture, when it was stopped
	sent             []app.Exchange // over the service, complete
	prometheusServer *mesh.Process
}

// identity is that of a service account of the mesh.
func identity(namespace, account string) spiffe.ID {
	return spiffe.ID{TrustDomain: cluster.TrustDomain, Namespace: namespace, ServiceAccount: account}
}

// build makes network, control plane, applications and ztunnels.
func (w *world) build(ctx context.Context, out *console.Console) bool {
	return out.Steps(ctx, []console.Step{
		{What: "start a control plane, two nodes and their CNI agents", Do: w.makeNodes},
		{What: "start two ztunnels and wait until they are ready", Do: w.startZtunnels},
		{What: "tell the control plane of service and policies", Do: w.makePolicies},
		{What: "add five captured pods and one that is not", Do: w.makePods},
		{What: "start the applications", Do: w.startApps},
		{What: "wait until the shop may use the stock", Do: w.settle},
		{What: "see what the ztunnel claims", Do: w.detect},
	}, func() { w.tails(out) })
}

func (w *world) makeNodes(context.Context) (string, error) {
	for i := range w.nodes {
		node, err := w.cluster.AddNode(fmt.Sprintf("node-%d", i+1))
		if err != nil {
			return "", err
		}
		w.nodes[i] = node
	}
	families := "IPv4 and IPv6"
	if !w.cluster.Mesh.IPv6 {
		families = "IPv4 only: the kernel has no IPv6"
	}
	return families, nil
}

func (w *world) startZtunnels(ctx context.Context) (string, error) {
	for i, node := range w.nodes {
		z, err := node.StartZtunnel()
		if err != nil {
			return "", err
		}
		w.ztunnels[i] = z
	}
	for _, z := range w.ztunnels {
		if err := awaitReady(ctx, z); err != nil {
			return "", err
		}
	}
	return "", nil
}

func awaitReady(ctx context.Context, z *cluster.Ztunnel) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return z.AwaitReady(ctx)
}

// service is that of the stock.
func (w *world) service() *workloadapi.Service {
	vips := []netip.Addr{serviceAddr}
	if w.cluster.Mesh.IPv6 {
		vips = append(vips, serviceAddr6)
	}
	return control.Service(control.ServiceSpec{Namespace: "stock", Name: "keeper", VIPs: vips, Ports: []control.Port{
		{Port: webService, Target: webTarget}, {Port: echoService, Target: echoTarget},
	}})
}

// makePolicies lets only the identity of Prometheus read the metrics of
// ztunnels, and only shop and stock use the stock.
func (w *world) makePolicies(context.Context) (string, error) {
	policies := []*securityapi.Authorization{
		control.AllowPolicy(control.PolicySpec{
			Namespace: cluster.ZtunnelID.Namespace, Name: "metrics-for-prometheus",
			Principals: []string{identity("monitoring", "prometheus").Principal()}, Ports: []uint16{mesh.MetricsPort},
		}),
		control.AllowPolicy(control.PolicySpec{
			Namespace: "stock", Name: "stock-for-the-shop", Ports: []uint16{webTarget, echoTarget},
			Principals: []string{identity("shop", "shopper").Principal(), identity("stock", "packer").Principal(), identity("stock", "keeper").Principal()},
		}),
	}
	err := w.cluster.Plane.Update(control.Update{Services: []*workloadapi.Service{w.service()}, Policies: policies})
	return fmt.Sprintf("1 service, %d policies", len(policies)), err
}

func (w *world) makePods(ctx context.Context) (string, error) {
	near, far := w.nodes[0], w.nodes[1] // so that the shop's traffic crosses the wire
	start := time.Now()
	for _, p := range []struct {
		at        **cluster.Pod
		node      *cluster.Node
		namespace string
		account   string
		services  []*workloadapi.Service
	}{
		{&w.shopper, near, "shop", "shopper", nil},
		{&w.prometheus, near, "monitoring", "prometheus", nil},
		{&w.stranger, near, "other", "stranger", nil},
		{&w.keeper, far, "stock", "keeper", []*workloadapi.Service{w.service()}},
		{&w.packer, far, "stock", "packer", nil},
	} {
		pod, err := p.node.AddPod(ctx, cluster.Spec{Name: p.account + "-0", ID: identity(p.namespace, p.account), Services: p.services})
		if err != nil {
			return "", err
		}
		*p.at = pod
	}
	each := time.Since(start) / 5
	outsider, err := near.NewPod(cluster.Spec{Name: "outsider-0", ID: identity("legacy", "outsider")})
	if err != nil {
		return "", err
	}
	w.outsider = outsider
	return fmt.Sprintf("%s each", console.Took(each)), outsider.Publish(false)
}

func (w *world) startApps(ctx context.Context) (string, error) {
	return "", errors.Join(
		w.cluster.Apps.Echo(ctx, w.keeper.Namespace, echoTarget),
		w.cluster.Apps.Web(ctx, w.keeper.Namespace, webTarget),
		w.cluster.Apps.Echo(ctx, w.cluster.ControlNamespace(), echoTarget), // for the control of the search
	)
}

// settle waits until both nodes know enough, which shows in a connection that
// needs all of it. It opens none to the service's addresses, whose connections
// are counted later.
func (w *world) settle(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return "", app.Retry(ctx, pollEvery, func() error {
		if stats := w.cluster.Plane.Stats(); stats.Streams != len(w.ztunnels) || stats.Behind > 0 {
			return fmt.Errorf("%d ztunnels are connected to the control plane, %d of them have not acknowledged all", stats.Streams, stats.Behind)
		}
		return nil
	})
}

// detect tells a ztunnel that keeps its telemetry to the mesh from one that does
// not. For the one of this repository it is a claim and not asked here.
func (w *world) detect(ctx context.Context) (string, error) {
	if w.claims {
		return "telemetry over HBONE only, audited", nil
	}
	c, err := w.ztunnels[0].Pod.Dial(ctx, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), mesh.MetricsPort))
	if err != nil {
		w.claims = true
		return fmt.Sprintf("port %d is closed to plaintext: secure telemetry", mesh.MetricsPort), nil
	}
	c.Close()
	return fmt.Sprintf("port %d is open to plaintext: secure telemetry is not claimed", mesh.MetricsPort), nil
}

// of is the ztunnel that serves a pod.
func (w *world) of(p *cluster.Pod) *cluster.Ztunnel {
	if p.Node.Name == w.nodes[0].Name {
		return w.ztunnels[0]
	}
	return w.ztunnels[1]
}

// services are the addresses of the echo service.
func (w *world) services() []netip.AddrPort {
	all := []netip.AddrPort{netip.AddrPortFrom(serviceAddr, echoService)}
	if w.cluster.Mesh.IPv6 {
		all = append(all, netip.AddrPortFrom(serviceAddr6, echoService))
	}
	return all
}

// metricsOf are the addresses of a ztunnel's metrics.
func metricsOf(z *cluster.Ztunnel) []netip.AddrPort {
	var all []netip.AddrPort
	for _, addr := range z.Pod.Addrs() {
		all = append(all, netip.AddrPortFrom(addr, mesh.MetricsPort))
	}
	return all
}
