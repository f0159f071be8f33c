package show

import (
	"context"
	"fmt"
	"io"
	"time"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/console"
)

// timeLimit ends a demonstration that hangs; it takes a fraction of it.
const timeLimit = 3 * time.Minute

// Config says what to show.
type Config struct {
	// Binary is the path of ztunnel.
	Binary string
	// Dir is an empty folder for files, with a short path; see [cluster.Config].
	Dir string
	// Own tells that the binary is of this repository and must hold all that is
	// claimed for it. Else what a drop-in need not do is left out.
	Own bool
	// Quiet leaves out all proofs: the mesh is built, and stays.
	Quiet bool
	// Keep stays up after the table until the context ends.
	Keep bool
	// Out is where progress and table go.
	Out io.Writer
}

// Run makes the mesh, shows everything and removes the mesh. It returns whether
// all was true. The error says that there could be no mesh; it is
// [os.ErrPermission] if the process may not make one.
func Run(ctx context.Context, c Config) (bool, error) {
	out := console.New(c.Out)
	limited, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	network, err := cluster.New(cluster.Config{
		Binary: c.Binary, Dir: c.Dir, Env: map[string]string{"CONNECTION_TERMINATION_DEADLINE": drainDeadline.String()},
	})
	if err != nil {
		return false, err
	}
	w := &world{cluster: network, dir: c.Dir, claims: c.Own}
	ok := w.show(limited, out, c)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(out, "\nInterrupted. Everything is removed.")
		ok = false
	case c.Keep && w.built:
		w.tell(out)
		<-ctx.Done()
	}
	if err := network.Close(); err != nil {
		fmt.Fprintf(out, "remove the mesh: %v\n", err)
		ok = false
	}
	return ok, nil
}

// show builds the mesh and proves what there is to prove.
func (w *world) show(ctx context.Context, out *console.Console, c Config) bool {
	if w.built = w.build(ctx, out); !w.built || c.Quiet {
		return w.built
	}
	return out.Prove(ctx, "What was proven, and measured just now:", w.proofs(), func() { w.tails(out) })
}
