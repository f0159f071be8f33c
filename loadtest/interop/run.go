package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/console"
)

const (
	// timeLimit ends a run over one IP version that hangs.
	timeLimit = 90 * time.Second
	// tailLines is how much of a log is shown when something failed.
	tailLines = 8
)

// Config says what to run.
type Config struct {
	// Binary is the path of ztunnel.
	Binary string
	// Envoy is the path of Envoy.
	Envoy string
	// Dir is an empty folder for files, with a short path; see [cluster.Config].
	Dir string
	// Own tells that the ztunnel is of this repository. Else what a drop-in need
	// not do is left out.
	Own bool
	// IPv4 leaves out IPv6, for a kernel that has none.
	IPv4 bool
	// Out is where progress and tables go.
	Out io.Writer
}

var errNoIPv6 = errors.New("the kernel has no IPv6; -ipv4 leaves it out")

// Run proves everything, over IPv4 and then over IPv6, each in a mesh that it
// makes and removes. It returns whether all was true. The error says that there
// could be no mesh; it is [os.ErrPermission] if the process may not make one.
func Run(ctx context.Context, c Config) (bool, error) {
	version, err := exec.CommandContext(ctx, c.Envoy, "--version").Output()
	if err != nil {
		return false, fmt.Errorf("%s is no Envoy that runs here: %w", c.Envoy, err)
	}
	fmt.Fprintf(c.Out, "  %s\n", strings.TrimSpace(string(version)))
	all := true
	for _, f := range families {
		if ctx.Err() != nil || c.IPv4 && f.ipv6 {
			continue
		}
		fmt.Fprintf(c.Out, "\n%s\n\n", f.name)
		ok, err := f.run(ctx, c)
		if err != nil {
			return false, err
		}
		all = all && ok
	}
	return all && ctx.Err() == nil, nil
}

// run proves everything over one IP version.
func (f family) run(ctx context.Context, c Config) (bool, error) {
	out := console.New(c.Out)
	limited, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	c.Dir = filepath.Join(c.Dir, f.name) // names of files come again
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		return false, err
	}
	network, err := cluster.New(cluster.Config{
		Binary: c.Binary, Dir: c.Dir, Env: map[string]string{"TELEMETRY_EXPOSURE": "both"}, // read from within
	})
	if err != nil {
		return false, err
	}
	if !network.Mesh.IPv6 && !c.IPv4 {
		return false, errors.Join(errNoIPv6, network.Close())
	}
	w := &world{family: f, cluster: network, cfg: c}
	ok := w.show(limited, out)
	if ctx.Err() != nil {
		fmt.Fprintln(out, "\nInterrupted. Everything is removed.")
		ok = false
	}
	w.closeSessions()
	if err := network.Close(); err != nil {
		fmt.Fprintf(out, "remove the mesh: %v\n", err)
		ok = false
	}
	return ok, nil
}

// show builds the mesh and proves what there is to prove.
func (w *world) show(ctx context.Context, out *console.Console) bool {
	failed := func() { w.tails(out) }
	return out.Steps(ctx, w.steps(), failed) &&
		out.Prove(ctx, "What was proven with a real Envoy over "+w.name+", and measured just now:", w.proofs(), failed)
}

// tails shows what ztunnels and Envoys said last.
func (w *world) tails(out *console.Console) {
	for _, z := range w.ztunnels {
		if z != nil {
			out.Tail(z.Name, z.Log.Tail(tailLines))
		}
	}
	for _, e := range w.envoys {
		out.Tail("Envoy "+e.pod.Name, e.Log.Tail(tailLines))
	}
}

// proofs are all of them, in the order in which they are done and told.
func (w *world) proofs() []*console.Proof {
	proofs := []*console.Proof{
		{
			Claim: "waypoint: bytes arrived both ways through Envoy, with half-close",
			Doing: "the shop talks to a service that has a waypoint", Run: w.talk,
		},
		{
			Claim: "waypoint: each side's ztunnel named the waypoint as its peer, Envoy named both",
			Doing: "compare logs and metrics of both ztunnels with Envoy's", Run: w.account,
		},
		{
			Claim: "waypoint: a policy for its identity let it in, and refused direct access",
			Doing: "others talk to the server without the waypoint", Run: w.direct,
		},
		{
			Claim: "waypoint: of a workload's address too, and nothing goes around it",
			Doing: "give the pod itself the waypoint", Run: w.workload,
		},
		{
			Claim: "waypoint: a connection that stands still held up no other in its tunnel",
			Doing: "fill a connection that nobody reads", Run: w.stall,
		},
		{
			Claim: "waypoint: many connections shared few tunnels on either side of Envoy",
			Doing: "open connections at the same time", Run: w.share,
		},
		{
			Claim: "waypoint: a draining Envoy lost nothing: old connections go on, new ones find a way",
			Doing: "drain the waypoint and replace it while connections are open", Run: w.drain,
		},
		{
			Claim: "waypoint: requests that a dying tunnel did not take were sent again",
			Doing: "connect over tunnels that Envoy ends all the time", Run: w.retry,
		},
		{
			Claim: "waypoint: a dead one was not bypassed, and served at once when it was back",
			Doing: "kill the waypoint and start it again", Run: w.restart,
		},
		{
			Claim: "waypoint: one with another identity was refused",
			Doing: "let the control plane expect another waypoint", Run: w.wrongWaypoint,
		},
		{
			Claim: "waypoint: with a ztunnel before and behind it, Envoy read the PROXY header and sent on",
			Doing: "let a captured Envoy be the waypoint", Run: w.sandwiched,
		},
		{
			Claim: "gateway: bytes arrived both ways in a tunnel within a tunnel, TLS from end to end",
			Doing: "the shop talks to a service in another network", Run: w.abroadTalk,
		},
		{
			Claim: "gateway: ztunnels and Envoy agree on who talked to whom",
			Doing: "compare logs and metrics of both ztunnels with Envoy's", Run: w.abroadAccount,
		},
		{
			Claim: "gateway: a gateway with another identity was refused",
			Doing: "let the control plane expect another gateway", Run: w.wrongGateway,
		},
		{
			Claim: "gateway: a server behind it with another identity was refused",
			Doing: "let the control plane expect another server", Run: w.wrongServer,
		},
	}
	for i, p := range proofs {
		p.Line = i + 1
	}
	return proofs
}
