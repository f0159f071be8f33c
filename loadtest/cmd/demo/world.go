package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"syscall"
	"time"

	"ztunnel/loadtest/mesh"
	"ztunnel/proxy/spiffe"
)

const (
	trustDomain = "cluster.local"
	cluster     = "Kubernetes"
	revision    = "v1"

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

// member is a pod of the mesh, with its ztunnel.
type member struct {
	name string // of the pod; that of the workload is the service account
	id   spiffe.ID
	pod  *mesh.Pod
	zt   *mesh.Ztunnel
	logs int // how many log files it has had
}

func newMember(namespace, account string) *member {
	return &member{name: account + "-0", id: spiffe.ID{TrustDomain: trustDomain, Namespace: namespace, ServiceAccount: account}}
}

// world is the mesh of the demonstration.
type world struct {
	mesh   *mesh.Mesh
	binary string // of ztunnel
	dir    string // for files
	config mesh.Config
	file   string // of config

	nodes                                [2]*mesh.Node
	client, server, prometheus, stranger *member
	outsider, legacy                     *mesh.Pod // without ztunnel
	apps                                 apps
	capture                              *mesh.Capture
	secret                               []byte
	packets                              *mesh.Packets // of capture, when it was stopped
	sent                                 []exchange    // over the service, complete
	prometheusServer                     *mesh.Process
}

func (w *world) members() []*member {
	return []*member{w.client, w.server, w.prometheus, w.stranger}
}

// close removes everything.
func (w *world) close() {
	w.apps.close()
	w.mesh.Close() //nolint:errcheck // the process ends now, and the kernel removes the rest
}

// build makes network, configuration, applications and ztunnels.
func (w *world) build(ctx context.Context, out *console) bool {
	steps := []struct {
		what string
		do   func(context.Context) (string, error)
	}{
		{"make two nodes and six pods, capture four of them", w.makePods},
		{"write workloads, services and policies", w.writeConfig},
		{"start the applications", w.startApps},
		{"start four ztunnels and wait until they are ready", w.startZtunnels},
	}
	for _, s := range steps {
		if !out.step(ctx, s.what, s.do) {
			for _, m := range w.members() {
				if m != nil && m.zt != nil {
					out.tail(m.name, m.zt.Log.Tail(tailLines))
				}
			}
			return false
		}
	}
	return true
}

func (w *world) makePods(context.Context) (string, error) {
	for i := range w.nodes {
		node, err := w.mesh.AddNode(fmt.Sprintf("node-%d", i+1))
		if err != nil {
			return "", err
		}
		w.nodes[i] = node
	}
	w.client, w.server = newMember("shop", "shopper"), newMember("stock", "keeper")
	w.prometheus, w.stranger = newMember("monitoring", "prometheus"), newMember("other", "stranger")
	near, far := w.nodes[0], w.nodes[1]
	for _, m := range w.members() {
		node := near
		if m == w.server {
			node = far // so that all its traffic crosses the wire
		}
		pod, err := node.AddPod(m.name)
		if err != nil {
			return "", err
		}
		m.pod = pod
		if err := pod.Redirect(); err != nil {
			return "", err
		}
	}
	var err1, err2 error
	w.outsider, err1 = near.AddPod("outsider")
	w.legacy, err2 = far.AddPod("legacy")
	families := "IPv4 and IPv6"
	if !w.mesh.IPv6 {
		families = "IPv4 only: the kernel has no IPv6"
	}
	return families, errors.Join(err1, err2)
}

// writeConfig describes the mesh. Only the identity of Prometheus may read
// anybody's metrics, and only the shop may use the service.
func (w *world) writeConfig(context.Context) (string, error) {
	host := w.server.id.Namespace + "/" + serviceHost
	ports := map[uint16]uint16{webService: webTarget, echoService: echoTarget}
	for _, m := range w.members() {
		wl := mesh.Workload{
			UID: cluster + "//Pod/" + m.id.Namespace + "/" + m.name, Name: m.name,
			Namespace: m.id.Namespace, ServiceAccount: m.id.ServiceAccount, TrustDomain: m.id.TrustDomain,
			WorkloadIPs: m.pod.Addrs(), Protocol: "HBONE", Node: m.pod.Node.Name, ClusterID: cluster,
			WorkloadName: m.id.ServiceAccount, WorkloadType: "deployment",
			CanonicalName: m.id.ServiceAccount, CanonicalRevision: revision,
		}
		if m == w.server {
			wl.Services = map[string]map[uint16]uint16{host: ports}
		}
		w.config.Workloads = append(w.config.Workloads, wl)
		w.config.Policies = append(w.config.Policies,
			mesh.AllowOnly(m.id.Namespace, "metrics-for-prometheus", w.prometheus.id, mesh.MetricsPort))
	}
	vips := []string{"/" + serviceAddr.String()}
	if w.mesh.IPv6 {
		vips = append(vips, "/"+serviceAddr6.String())
	}
	w.config.Services = []mesh.Service{{
		Name: "keeper", Namespace: w.server.id.Namespace, Hostname: serviceHost, VIPs: vips, Ports: ports,
	}}
	w.config.Policies = append(w.config.Policies,
		mesh.AllowOnly(w.server.id.Namespace, "stock-for-the-shop", w.client.id, webTarget, echoTarget))
	w.file = filepath.Join(w.dir, "mesh.yaml")
	return fmt.Sprintf("%d workloads, %d policies", len(w.config.Workloads), len(w.config.Policies)), w.config.WriteFile(w.file)
}

func (w *world) startApps(ctx context.Context) (string, error) {
	return "", errors.Join(
		w.apps.echo(ctx, w.server.pod.Namespace, echoTarget),
		w.apps.web(ctx, w.server.pod.Namespace, webTarget),
		w.apps.echo(ctx, w.legacy.Namespace, echoTarget),
	)
}

// drainDeadline is how long the ztunnels may take to end: longer than the
// demonstration of it, so that it ends for a better reason.
const drainDeadline = 30 * time.Second

func (w *world) startZtunnels(ctx context.Context) (string, error) {
	for _, m := range w.members() {
		if err := w.startZtunnel(m); err != nil {
			return "", err
		}
	}
	for _, m := range w.members() {
		if err := m.awaitReady(ctx); err != nil {
			return "", err
		}
	}
	return "", nil
}

func (w *world) startZtunnel(m *member) (err error) {
	m.logs++
	m.zt, err = m.pod.StartZtunnel(mesh.ZtunnelConfig{
		Binary: w.binary, Name: m.name, Identity: m.id, LocalFile: w.file,
		LogFile: filepath.Join(w.dir, fmt.Sprintf("%s-%d.log", m.name, m.logs)),
		Env:     map[string]string{"CONNECTION_TERMINATION_DEADLINE": drainDeadline.String(), "CLUSTER_ID": cluster},
	})
	return err
}

func (m *member) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return m.zt.AwaitReady(ctx)
}

// services are the addresses of the echo service.
func (w *world) services() []netip.AddrPort {
	all := []netip.AddrPort{netip.AddrPortFrom(serviceAddr, echoService)}
	if w.mesh.IPv6 {
		all = append(all, netip.AddrPortFrom(serviceAddr6, echoService))
	}
	return all
}

// refused tells whether an error is that of a connection that the other side
// has ended without a word.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
