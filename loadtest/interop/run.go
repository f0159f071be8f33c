package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"ztunnel/loadtest/cluster"
)

const (
	// timeLimit ends a run that hangs.
	timeLimit = 90 * time.Second
	// proofLimit is the time that one proof may take.
	proofLimit = 30 * time.Second
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
	// Out is where progress and table go.
	Out io.Writer
}

// Run makes the mesh, proves everything and removes the mesh. It returns whether
// all was true. The error says that there could be no mesh; it is
// [os.ErrPermission] if the process may not make one.
func Run(ctx context.Context, c Config) (bool, error) {
	out := &console{w: c.Out, start: time.Now()}
	limited, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	version, err := exec.CommandContext(limited, c.Envoy, "--version").Output()
	if err != nil {
		return false, fmt.Errorf("%s is no Envoy that runs here: %w", c.Envoy, err)
	}
	fmt.Fprintf(out.w, "  %s\n", strings.TrimSpace(string(version)))
	network, err := cluster.New(cluster.Config{
		Binary: c.Binary, Dir: c.Dir, Env: map[string]string{"TELEMETRY_EXPOSURE": "both"}, // read from within
	})
	if err != nil {
		return false, err
	}
	w := &world{cluster: network, cfg: c}
	ok := w.show(limited, out)
	if ctx.Err() != nil {
		fmt.Fprintln(out.w, "\nInterrupted. Everything is removed.")
		ok = false
	}
	w.closeSessions()
	if err := network.Close(); err != nil {
		fmt.Fprintf(out.w, "remove the mesh: %v\n", err)
		ok = false
	}
	return ok, nil
}

// show builds the mesh and proves what there is to prove.
func (w *world) show(ctx context.Context, out *console) bool {
	for _, s := range w.steps() {
		if _, err := out.step(ctx, s.what, s.do); err != nil {
			w.tails(out)
			return false
		}
	}
	proofs := w.proofs()
	for _, p := range proofs {
		if ctx.Err() == nil {
			w.prove(ctx, out, p)
		}
	}
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return false // interrupted: a table would say little
	}
	return out.table(proofs)
}

// prove does one proof and remembers the result.
func (w *world) prove(ctx context.Context, out *console, p *proof) {
	ctx, cancel := context.WithTimeout(ctx, proofLimit)
	defer cancel()
	p.figure, p.err = out.step(ctx, p.doing, func(ctx context.Context) (string, error) {
		figure, err := p.run(ctx)
		if skip, ok := errors.AsType[*skipError](err); ok {
			p.skipped, err = skip.why, nil
		}
		return figure, err
	})
	p.done = true
	if p.err != nil && !errors.Is(context.Cause(ctx), context.Canceled) {
		w.tails(out)
	}
}

// tails shows what ztunnels and Envoys said last.
func (w *world) tails(out *console) {
	for _, z := range w.ztunnels {
		if z != nil {
			out.tail(z.Name, z.Log.Tail(tailLines))
		}
	}
	for _, e := range w.envoys {
		out.tail("Envoy "+e.pod.Name, e.Log.Tail(tailLines))
	}
}

// proofs are all of them, in the order in which they are done and told.
func (w *world) proofs() []*proof {
	return []*proof{
		{
			claim: "waypoint: bytes arrived both ways through Envoy, with half-close",
			doing: "the shop talks to a service that has a waypoint", run: w.talk,
		},
		{
			claim: "waypoint: each side's ztunnel named the waypoint as its peer, Envoy named both",
			doing: "compare logs and metrics of both ztunnels with Envoy's", run: w.account,
		},
		{
			claim: "waypoint: a policy for its identity let it in, and refused direct access",
			doing: "others talk to the server without the waypoint", run: w.direct,
		},
		{
			claim: "waypoint: of a workload's address too, and nothing goes around it",
			doing: "give the pod itself the waypoint", run: w.workload,
		},
		{
			claim: "waypoint: a connection that stands still held up no other in its tunnel",
			doing: "fill a connection that nobody reads", run: w.stall,
		},
		{
			claim: "waypoint: many connections shared few tunnels on either side of Envoy",
			doing: "open connections at the same time", run: w.share,
		},
		{
			claim: "waypoint: a draining Envoy lost nothing: old connections go on, new ones find a way",
			doing: "drain the waypoint and replace it while connections are open", run: w.drain,
		},
		{
			claim: "waypoint: requests that a dying tunnel did not take were sent again",
			doing: "connect over tunnels that Envoy ends all the time", run: w.retry,
		},
		{
			claim: "waypoint: a dead one was not bypassed, and served at once when it was back",
			doing: "kill the waypoint and start it again", run: w.restart,
		},
		{
			claim: "waypoint: one with another identity was refused",
			doing: "let the control plane expect another waypoint", run: w.wrongWaypoint,
		},
		{
			claim: "waypoint: with a ztunnel before and behind it, Envoy read the PROXY header and sent on",
			doing: "let a captured Envoy be the waypoint", run: w.sandwiched,
		},
		{
			claim: "gateway: bytes arrived both ways in a tunnel within a tunnel, TLS from end to end",
			doing: "the shop talks to a service in another network", run: w.abroadTalk,
		},
		{
			claim: "gateway: ztunnels and Envoy agree on who talked to whom",
			doing: "compare logs and metrics of both ztunnels with Envoy's", run: w.abroadAccount,
		},
		{
			claim: "gateway: a gateway with another identity was refused",
			doing: "let the control plane expect another gateway", run: w.wrongGateway,
		},
		{
			claim: "gateway: a server behind it with another identity was refused",
			doing: "let the control plane expect another server", run: w.wrongServer,
		},
	}
}
