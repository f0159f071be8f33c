package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"ztunnel/loadtest/cni"
	"ztunnel/loadtest/control"
	"ztunnel/loadtest/mesh"
	"ztunnel/proxy/spiffe"
)

// ZtunnelID is the identity of all ztunnels.
var ZtunnelID = spiffe.ID{TrustDomain: TrustDomain, Namespace: "istio-system", ServiceAccount: "ztunnel"}

// Node is a node of the cluster, with a CNI agent and its pods.
type Node struct {
	*mesh.Node
	// Network is that of its pods and its ztunnels; empty in a mesh of one network.
	Network string

	cluster *Cluster
	agent   *cni.Agent
	socket  string

	mu       sync.Mutex
	ztunnels int // that were started
}

// Ztunnel is a running ztunnel of a node.
type Ztunnel struct {
	*mesh.Ztunnel
	// Name is that of its pod.
	Name string
	// UID is that of its workload.
	UID string
}

// AddNode makes a node whose agent waits for a ztunnel.
func (c *Cluster) AddNode(name string) (*Node, error) { return c.AddNodeIn("", name) }

// AddNodeIn makes a node of a network. That its ztunnel reaches other networks
// through their gateways only is a matter of what the control plane tells it:
// all nodes have the same wire.
func (c *Cluster) AddNodeIn(network, name string) (*Node, error) {
	place, err := c.Mesh.AddNode(name)
	if err != nil {
		return nil, err
	}
	n := &Node{
		Node: place, Network: network, cluster: c,
		agent: cni.New(cni.Config{Log: c.cfg.Log}), socket: filepath.Join(c.cfg.Dir, name+".sock"),
	}
	ln, err := cni.Listen(n.socket)
	if err != nil {
		return nil, fmt.Errorf("add node %s: %w", name, err)
	}
	c.running.Go(func() {
		if err := errors.Join(n.agent.Serve(c.ctx, ln), n.agent.Close()); err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.errs = append(c.errs, fmt.Errorf("agent of %s: %w", name, err))
		}
	})
	return n, nil
}

// StartZtunnel starts a ztunnel in a pod of its own, of which the control plane
// knows; see [mesh.Ztunnel.AwaitReady]. A node may have several for a while, as
// in an upgrade; the newest is told of new pods.
func (n *Node) StartZtunnel() (*Ztunnel, error) {
	n.mu.Lock()
	n.ztunnels++
	name := fmt.Sprintf("ztunnel-%s-%d", n.Name, n.ztunnels)
	n.mu.Unlock()
	c := n.cluster
	pod, err := n.NewPod(Spec{Name: name, ID: ZtunnelID})
	if err != nil {
		return nil, err
	}
	if err := pod.Publish(true); err != nil {
		return nil, errors.Join(err, pod.Pod.Remove())
	}
	token := filepath.Join(c.cfg.Dir, name+".token")
	if err := os.WriteFile(token, []byte(c.Plane.Token(ZtunnelID.Namespace, ZtunnelID.ServiceAccount, n.Name)), 0o600); err != nil {
		return nil, fmt.Errorf("start ztunnel of %s: %w", n.Name, err)
	}
	env := map[string]string{}
	if n.Network != "" {
		env["NETWORK"] = n.Network
	}
	maps.Copy(env, c.cfg.Env)
	z, err := pod.StartZtunnel(mesh.ZtunnelConfig{
		Binary: c.cfg.Binary, Name: name, Identity: ZtunnelID, ControlPlane: c.ControlAddr(), ClusterID: ID,
		RootFile: c.root, TokenFile: token, Socket: n.socket,
		LogFile: filepath.Join(c.cfg.Dir, name+".log"), Env: env,
	})
	if err != nil {
		return nil, err
	}
	return &Ztunnel{Ztunnel: z, Name: name, UID: pod.UID}, nil
}

// Retire removes what is left of a ztunnel whose process has ended.
func (n *Node) Retire(ctx context.Context, z *Ztunnel) error {
	select {
	case <-z.Ended():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return errors.Join(n.cluster.Plane.Update(control.Update{Remove: control.Names{Workloads: []string{z.UID}}}), z.Pod.Remove())
}
