// Package measure measures what a changing mesh costs a ztunnel, on one machine
// and in shared mode: latency while the control plane changes ([Updates]), what
// grows while pods come and go ([Soak]), what is lost while ztunnels are replaced
// under load ([Upgrades]), what those who behave feel of attacks ([Attacks]), and
// what questions for names cost ([Names]). It prints figures for people and says whether
// something went wrong that should not. [Run] measures two binaries in turns and
// writes results for machines.
package measure

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/control"
	"ztunnel/proxy/api/securityapi"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/spiffe"
)

// Config says what to measure.
type Config struct {
	// Binary is the path of ztunnel.
	Binary string
	// Dir is an empty folder for files, with a short path; see [cluster.Config].
	Dir string
	// For is how long to measure.
	For time.Duration
	// Rounds is how many upgrades to make, and Rate how many connections, or
	// questions, a second to make.
	Rounds, Rate int
	// Only are the attacks whose names contain it; empty: all.
	Only string
	// Out is where the figures go.
	Out io.Writer
}

const (
	echoPort    = 7
	echoTarget  = 7007
	pingPort    = 8 // of the same service, whose server is another process
	pingTarget  = 7008
	readyLimit  = 15 * time.Second
	settleLimit = 15 * time.Second
	pollEvery   = 5 * time.Millisecond
)

var serviceAddr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 0, 10}), echoPort)

// bed is what all measures stand on: a client and a service on two nodes, and a
// policy that lets only identities of the clients' namespace in.
type bed struct {
	*cluster.Cluster
	out            io.Writer
	nodes          [2]*cluster.Node
	ztunnels       [2]*cluster.Ztunnel
	client, server *cluster.Pod
	outside        *cluster.Pod // not captured, on the first node; nil if nobody needs it
}

// setting is what a measure wants of its bed beside the usual.
type setting struct {
	ttl time.Duration     // of certificates; 0 is as long as ztunnel asks for
	env map[string]string // of ztunnels
	// nameserver makes the bed's outside pod the name server of the ztunnels.
	nameserver bool
}

func identity(namespace, account string) spiffe.ID {
	return spiffe.ID{TrustDomain: cluster.TrustDomain, Namespace: namespace, ServiceAccount: account}
}

// newBed makes the bed and waits until the client can use the service. The
// caller must close it; after an error there is nothing to close.
func newBed(ctx context.Context, c Config, s setting) (*bed, error) {
	binary := c.Binary
	if s.nameserver {
		binary = filepath.Join(c.Dir, nameserverScript)
	}
	network, err := cluster.New(cluster.Config{Binary: binary, Dir: c.Dir, CertTTL: s.ttl, Env: s.env})
	if err != nil {
		return nil, err
	}
	b := &bed{Cluster: network, out: c.Out}
	if err := b.build(ctx, c, s); err != nil {
		for _, z := range b.ztunnels {
			if z != nil {
				fmt.Fprintf(c.Out, "the last lines of %s:\n", z.Name)
				for _, line := range z.Log.Tail(10) {
					fmt.Fprintf(c.Out, "  %s\n", line)
				}
			}
		}
		_ = network.Close() // the other error counts
		return nil, err
	}
	return b, nil
}

func (b *bed) build(ctx context.Context, c Config, s setting) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for i := range b.nodes {
		var err error
		if b.nodes[i], err = b.AddNode(fmt.Sprintf("node-%d", i+1)); err != nil {
			return err
		}
		if i == 0 && s.nameserver {
			if b.outside, err = b.nodes[0].NewPod(cluster.Spec{Name: "outside-0", ID: identity("outside", "outside")}); err != nil {
				return err
			}
			if err := withNameserver(c.Dir, c.Binary, b.outside.Addr); err != nil {
				return err
			}
		}
		if b.ztunnels[i], err = b.nodes[i].StartZtunnel(); err != nil {
			return err
		}
	}
	for _, z := range b.ztunnels {
		if err := z.AwaitReady(ctx); err != nil {
			return err
		}
	}
	service := control.Service(control.ServiceSpec{
		Namespace: "servers", Name: "echo", VIPs: []netip.Addr{serviceAddr.Addr()}, Ports: []control.Port{{Port: echoPort, Target: echoTarget}, {Port: pingPort, Target: pingTarget}},
	})
	err := b.Plane.Update(control.Update{
		Services: []*workloadapi.Service{service},
		Policies: []*securityapi.Authorization{control.AllowPolicy(control.PolicySpec{
			Namespace: "servers", Name: "clients", Principals: []string{cluster.TrustDomain + "/ns/clients/*"},
		})},
	})
	if err != nil {
		return err
	}
	if b.client, err = b.nodes[0].AddPod(ctx, cluster.Spec{Name: "client-0", ID: identity("clients", "client")}); err != nil {
		return err
	}
	if b.server, err = b.nodes[1].AddPod(ctx, cluster.Spec{Name: "server-0", ID: identity("servers", "server"), Services: []*workloadapi.Service{service}}); err != nil {
		return err
	}
	if err := b.Apps.Echo(ctx, b.server.Namespace, echoTarget); err != nil {
		return err
	}
	return app.Retry(ctx, pollEvery, func() error {
		_, err := app.Say(ctx, b.client.Namespace, serviceAddr, []byte("hello"))
		return err
	})
}

// settle waits until every ztunnel has acknowledged all that the control plane
// has, and tells how long that took.
func (b *bed) settle(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	start := time.Now()
	err := app.Retry(ctx, pollEvery, func() error {
		if stats := b.Plane.Stats(); stats.Streams < len(b.ztunnels) || stats.Behind > 0 {
			return fmt.Errorf("%d of %d ztunnels are connected to the control plane, %d have not acknowledged all", stats.Streams, len(b.ztunnels), stats.Behind)
		}
		return nil
	})
	return time.Since(start), err
}
