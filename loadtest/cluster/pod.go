package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"ztunnel/loadtest/cni"
	"ztunnel/loadtest/control"
	"ztunnel/loadtest/mesh"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/spiffe"
)

// Revision is the revision of all workloads whose [Spec] has none.
const Revision = "v1"

// Spec is what is known of a pod.
type Spec struct {
	// Name is that of the pod.
	Name string
	// ID is its identity, with its namespace and service account. The name of
	// its workload, and of its application, is the service account.
	ID spiffe.ID
	// Revision is that of the application; empty is [Revision].
	Revision string
	// Services are those that it is an endpoint of.
	Services []*workloadapi.Service
	// Adapt, if there is one, changes what the control plane is told of the pod.
	Adapt func(*workloadapi.Workload)
}

// Pod is a pod of a node.
type Pod struct {
	*mesh.Pod
	Spec
	// UID is that of its workload.
	UID  string
	node *Node
}

// NewPod makes a pod's network, of which nobody is told.
func (n *Node) NewPod(s Spec) (*Pod, error) {
	s.Revision = cmp.Or(s.Revision, Revision)
	pod, err := n.Node.AddPod(s.Name)
	if err != nil {
		return nil, err
	}
	return &Pod{Pod: pod, Spec: s, UID: ID + "//Pod/" + s.ID.Namespace + "/" + s.Name, node: n}, nil
}

// AddPod makes a pod, captures it and tells the control plane of it, as they
// come in Kubernetes: the agent captures before the pod runs, and its address
// becomes known then. When it returns, the node's ztunnel serves the pod.
func (n *Node) AddPod(ctx context.Context, s Spec) (*Pod, error) {
	p, err := n.NewPod(s)
	if err != nil {
		return nil, err
	}
	err = p.Publish(true)
	if err == nil {
		err = p.Capture(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, p.Remove(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// Publish tells the control plane of the pod: whether it takes part in the mesh,
// or has neither identity nor encryption.
func (p *Pod) Publish(captured bool) error {
	w := control.Pod(control.PodSpec{
		Cluster: ID, Network: p.node.Network, TrustDomain: TrustDomain, Namespace: p.ID.Namespace, Name: p.Name,
		ServiceAccount: p.ID.ServiceAccount, Node: p.node.Name, App: p.ID.ServiceAccount, Revision: p.Revision,
		Addresses: p.Addrs(), Captured: captured, Services: p.Services,
	})
	if p.Adapt != nil {
		p.Adapt(w)
	}
	return p.node.cluster.Plane.Update(control.Update{Workloads: []*workloadapi.Workload{w}})
}

// Capture makes the redirection rules and tells the node's ztunnel of the pod.
// It returns when ztunnel has answered.
func (p *Pod) Capture(ctx context.Context) error {
	if err := p.Redirect(); err != nil {
		return err
	}
	file, err := p.File()
	if err != nil {
		return err
	}
	defer file.Close()
	err = p.node.agent.Add(ctx, cni.Pod{
		UID: p.zdsUID(), Name: p.Name, Namespace: p.ID.Namespace, ServiceAccount: p.ID.ServiceAccount, NetNS: file,
	})
	if err != nil {
		return fmt.Errorf("tell the ztunnel of %s of pod %s: %w", p.node.Name, p.Name, err)
	}
	return nil
}

// zdsUID is what agent and ztunnel call the pod. Its workload has another uid, as
// in Kubernetes.
func (p *Pod) zdsUID() string { return p.Addr.String() + "-" + p.Name }

// Release tells the node's ztunnel that the pod is no more. Its rules stay.
func (p *Pod) Release(ctx context.Context) error { return p.node.agent.Remove(ctx, p.zdsUID()) }

// Remove removes the pod as Kubernetes does: the node's ztunnel is told, the
// control plane learns of it, and its network goes.
func (p *Pod) Remove(ctx context.Context) error {
	return errors.Join(
		p.Release(ctx),
		p.node.cluster.Plane.Update(control.Update{Remove: control.Names{Workloads: []string{p.UID}}}),
		p.Pod.Remove(),
	)
}
