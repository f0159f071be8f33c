package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/control"
	"ztunnel/loadtest/mesh"
	"ztunnel/proxy/spiffe"
)

const (
	// ControlPort is where the control plane serves xDS and the CA.
	ControlPort = 15012
	// TrustDomain is that of all identities.
	TrustDomain = spiffe.DefaultTrustDomain
	// ID is the id of the cluster.
	ID = "Kubernetes"
)

// Config says how to run a cluster.
type Config struct {
	// Binary is the path of ztunnel.
	Binary string
	// Dir is for logs, sockets and tokens. It must exist. Its path must be short
	// enough for a socket in it.
	Dir string
	// CertTTL bounds the life of certificates; 0 is as long as ztunnel asks for.
	CertTTL time.Duration
	// Env is what ztunnels get beside the usual.
	Env map[string]string
	// Log is told what the control plane and the agents have to say; nil: nobody.
	Log *slog.Logger
}

// Cluster is a running mesh. Its methods may be called concurrently.
type Cluster struct {
	// Mesh is the network.
	Mesh *mesh.Mesh
	// Plane is the control plane.
	Plane *control.Plane
	// Apps are the applications; they end with the cluster.
	Apps app.Apps

	cfg     Config
	root    string    // file of the control plane's root certificate
	host    *mesh.Pod // where the control plane listens
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup // agents

	mu      sync.Mutex
	serving *serving // nil: the control plane is down
	errs    []error  // of agents
}

// New makes the network and a control plane that serves, and no nodes. It needs
// what [mesh.New] needs. The caller must end the cluster with Close.
func New(cfg Config) (*Cluster, error) {
	network, err := mesh.New()
	if err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{Mesh: network, cfg: cfg, root: filepath.Join(cfg.Dir, "root.pem")}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.begin(); err != nil {
		return nil, errors.Join(fmt.Errorf("start cluster: %w", err), c.Close())
	}
	return c, nil
}

// begin makes the control plane and its place.
func (c *Cluster) begin() (err error) {
	if c.host, err = c.Mesh.Outside().AddPod("istiod"); err != nil {
		return err
	}
	names := []string{"istiod.istio-system.svc"}
	for _, addr := range c.host.Addrs() {
		names = append(names, addr.String())
	}
	c.Plane, err = control.New(control.Config{
		TrustDomain: TrustDomain, ClusterID: ID, MaxCertTTL: c.cfg.CertTTL, ServerNames: names, Log: c.cfg.Log,
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.root, c.Plane.RootPEM(), 0o600); err != nil {
		return err
	}
	return c.StartControlPlane()
}

// ControlAddr is where the control plane serves.
func (c *Cluster) ControlAddr() netip.AddrPort {
	return netip.AddrPortFrom(c.host.Addr, ControlPort)
}

// ControlNamespace is where the control plane serves. It is not captured, and on
// no node of the mesh.
func (c *Cluster) ControlNamespace() *mesh.Namespace { return c.host.Namespace }

// serving is one run of the control plane.
type serving struct {
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // set before ended is closed
}

var errServing = errors.New("the control plane serves already")

// StartControlPlane starts the control plane again after a stop. It knows what
// it knew.
func (c *Cluster) StartControlPlane() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.serving != nil {
		return errServing
	}
	ln, err := c.host.Listen(c.ctx, ControlPort)
	if err != nil {
		return fmt.Errorf("start control plane: %w", err)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	s := &serving{cancel: cancel, ended: make(chan struct{})}
	go func() { // StopControlPlane waits for it
		defer close(s.ended)
		s.err = c.Plane.Serve(ctx, ln)
	}()
	c.serving = s
	return nil
}

// StopControlPlane cuts all connections of the control plane. Without one it
// does nothing.
func (c *Cluster) StopControlPlane() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.serving
	if s == nil {
		return nil
	}
	c.serving = nil
	s.cancel()
	<-s.ended
	return s.err
}

// Close ends everything and waits for it. The error is what went wrong with
// control plane and agents in all the time.
func (c *Cluster) Close() error {
	c.cancel()
	c.Apps.Close()
	err := c.StopControlPlane()
	meshErr := c.Mesh.Close() // ends the ztunnels
	c.running.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(append(c.errs, err, meshErr)...)
}
