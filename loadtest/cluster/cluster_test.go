package cluster

import (
	"errors"
	"net/netip"
	"testing"

	"go.uber.org/goleak"

	"ztunnel/loadtest/cni"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/needs"
	"ztunnel/proxy/spiffe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reachable tells whether somebody listens as the control plane.
func reachable(t *testing.T, c *Cluster, from *Pod) bool {
	t.Helper()
	conn, err := from.Dial(t.Context(), netip.AddrPortFrom(c.ControlAddr().Addr(), ControlPort))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Without a ztunnel: what is told to whom.
func TestCluster(t *testing.T) {
	needs.Root(t)
	c, err := New(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	}()
	node, err := c.AddNode("node")
	if err != nil {
		t.Fatal(err)
	}
	spec := Spec{Name: "pod", ID: spiffe.ID{TrustDomain: TrustDomain, Namespace: "shop", ServiceAccount: "web"}}
	if _, err := node.AddPod(t.Context(), spec); !errors.Is(err, cni.ErrNoProxy) {
		t.Errorf("AddPod without a ztunnel = %v, want %v", err, cni.ErrNoProxy)
	}
	if got := c.Plane.Stats().Workloads; got != 0 {
		t.Errorf("%d workloads after a pod that could not be added, want 0", got)
	}
	pod, err := node.NewPod(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := pod.Publish(false); err != nil || c.Plane.Stats().Workloads != 1 {
		t.Errorf("Publish = %v, then there are %d workloads, want 1", err, c.Plane.Stats().Workloads)
	}

	for _, up := range []bool{true, false, true} {
		if !up {
			err = c.StopControlPlane()
		} else if err = c.StartControlPlane(); errors.Is(err, errServing) {
			err = nil // from the beginning
		}
		if err != nil || reachable(t, c, pod) != up {
			t.Errorf("control plane up: %t, %v, want %t", !up, err, up)
		}
	}
	if err := pod.Remove(t.Context()); err != nil || c.Plane.Stats().Workloads != 0 {
		t.Errorf("Remove = %v, then there are %d workloads, want 0", err, c.Plane.Stats().Workloads)
	}
}

// What the control plane is told of a pod of another network.
func TestNetwork(t *testing.T) {
	needs.Root(t)
	c, err := New(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	}()
	for _, network := range []string{"", "abroad"} {
		node, err := c.AddNodeIn(network, "node"+network)
		if err != nil {
			t.Fatal(err)
		}
		told := ""
		pod, err := node.NewPod(Spec{
			Name: "pod", ID: spiffe.ID{TrustDomain: TrustDomain, Namespace: "shop" + network, ServiceAccount: "web"},
			Adapt: func(w *workloadapi.Workload) { told = "network " + w.GetNetwork() },
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := pod.Publish(false); err != nil || told != "network "+network {
			t.Errorf("Publish = %v, told %q, want %q", err, told, "network "+network)
		}
	}
}
