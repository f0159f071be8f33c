package show

import (
	"context"
	"errors"
	"time"
)

const (
	// tailLines is how much of a log is shown when something failed.
	tailLines = 15
	// proofLimit is the time that one proof may take.
	proofLimit = 30 * time.Second
	// awaitLimit is how long something may take that should be there at once.
	awaitLimit = 5 * time.Second
	// pollEvery is how often something is tried that cannot be waited for.
	pollEvery = 5 * time.Millisecond
)

// proof is something that is done and measured, and what it proves.
type proof struct {
	line   int                                   // in the table; 0 is not in it
	claim  string                                // what the table says
	doing  string                                // what is done
	run    func(context.Context) (string, error) // returns the figure
	result                                       // of run
}

type result struct {
	done    bool
	err     error
	figure  string
	skipped string // why it was not tried
}

// skipError says that something was not tried, and why.
type skipError struct{ why string }

func (e *skipError) Error() string { return e.why }

// proofs are all of them, in the order in which they are done: what is compared
// with all that was sent comes before what sends more.
func (w *world) proofs() []*proof {
	return []*proof{
		{doing: "the shop talks to the stock, while the wire is recorded", run: w.talk},
		{
			line: 3, claim: "Prometheus' identity read the metrics of both nodes through the mesh",
			doing: "Prometheus reads the metrics of both ztunnels", run: w.read,
		},
		{
			line: 4, claim: "a stranger of the mesh was refused by policy, and left a trace",
			doing: "a stranger of the mesh tries to read them", run: w.readAsStranger,
		},
		{
			line: 1, claim: "user bytes crossed the wire inside TLS only",
			doing: "search the recording, and one of plaintext as control", run: w.search,
		},
		{
			line: 2, claim: "between pods of the mesh only port 15008 was used",
			doing: "look at the ports of the recording", run: w.ports,
		},
		{
			line: 5, claim: "a plaintext scrape was refused: no socket listens",
			doing: "somebody outside of the mesh tries to read metrics", run: w.readInPlaintext,
		},
		{
			line: 6, claim: "metrics of both sides name both workloads and count every byte",
			doing: "compare the metrics with what was sent", run: w.account,
		},
		{
			line: 7, claim: "access log lines of both sides say who, to whom and how much",
			doing: "compare the access logs with what was sent", run: w.logs,
		},
		{
			line: 8, claim: "certificates came from the CA, one identity each",
			doing: "ask pods and ztunnels for their certificates", run: w.certificates,
		},
		{
			line: 9, claim: "the application saw its client's address, not ztunnel's",
			doing: "the shop asks the stock whom it sees", run: w.sources,
		},
		{
			line: 15, claim: "a pod found a service by name through the DNS proxy, and reached it there",
			doing: "the shop looks the stock up, and uses it by name", run: w.names,
		},
		{
			line: 10, claim: "a policy change cut a flowing connection that it does not allow any more",
			doing: "deny everything while connections are open", run: w.deny,
		},
		{
			line: 11, claim: "a pod added live was served at once, as server and as client",
			doing: "add a pod to a node", run: w.addPod,
		},
		{
			line: 12, claim: "a pod removed live had its connections ended",
			doing: "remove it while a connection is open", run: w.removePod,
		},
		{
			line: 13, claim: "an upgrade let an open connection finish, and took new ones all the time",
			doing: "replace a node's ztunnel while a connection is open", run: w.upgrade,
		},
		{
			line: 14, claim: "a real Prometheus scraped both nodes through its ztunnel, and answered",
			doing: "run Prometheus and query it", run: w.runPrometheus,
		},
	}
}

// prove does one of them and remembers the result.
func (w *world) prove(ctx context.Context, out *console, p *proof) {
	ctx, cancel := context.WithTimeout(ctx, proofLimit)
	defer cancel()
	ok := out.step(ctx, p.doing, func(ctx context.Context) (string, error) {
		figure, err := p.run(ctx)
		if skip, ok := errors.AsType[*skipError](err); ok {
			p.skipped = skip.why
			return skip.why, nil
		}
		p.figure, p.err = figure, err
		return "", err
	})
	p.done = true
	if ok || ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return
	}
	w.tails(out)
}

// tails shows what the ztunnels said last.
func (w *world) tails(out *console) {
	for _, z := range w.ztunnels {
		if z != nil {
			out.tail(z.Name, z.Log.Tail(tailLines))
		}
	}
}
