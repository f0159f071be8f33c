package main

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
)

// proof is something that is done and measured, and what it proves.
type proof struct {
	line   int                                   // in the table; 0 is not in it
	claim  string                                // what the table says
	doing  string                                // what is done
	run    func(context.Context) (string, error) // returns the figure
	of     []*member                             // whose logs tell why it failed
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

// proofs are all of them, in the order in which they are done.
func (w *world) proofs() []*proof {
	both := []*member{w.client, w.server}
	return []*proof{
		{doing: "the shop talks to the stock, while the wire is recorded", run: w.talk, of: both},
		{
			line: 3, claim: "Prometheus' identity read the metrics of ztunnel through the mesh",
			doing: "Prometheus reads the metrics of the stock's ztunnel", run: w.read, of: []*member{w.prometheus, w.server},
		},
		{
			line: 4, claim: "a stranger of the mesh was refused by policy, and left a trace",
			doing: "a stranger of the mesh tries to read them", run: w.readAsStranger, of: []*member{w.stranger, w.server},
		},
		{
			line: 1, claim: "user bytes crossed the wire inside TLS only",
			doing: "search the recording, and one of plaintext as control", run: w.search, of: both,
		},
		{
			line: 2, claim: "between pods of the mesh only port 15008 was used",
			doing: "look at the ports of the recording", run: w.ports, of: both,
		},
		{
			line: 5, claim: "a plaintext scrape got nothing: no socket listens",
			doing: "somebody outside of the mesh tries to read metrics", run: w.readInPlaintext, of: []*member{w.server},
		},
		{
			line: 6, claim: "metrics of both sides name both workloads and count every byte",
			doing: "compare the metrics with what was sent", run: w.account, of: both,
		},
		{
			line: 7, claim: "access log lines of both sides say who, to whom and how much",
			doing: "compare the access logs with what was sent", run: w.logs, of: both,
		},
		{
			line: 8, claim: "a policy change cut what it does not allow any more, without a restart",
			doing: "deny everything while connections are open", run: w.deny, of: []*member{w.server, w.client, w.prometheus},
		},
		{
			line: 9, claim: "SIGTERM let an open connection finish, and ended with status 0",
			doing: "end the stock's ztunnel while a connection is open", run: w.drain, of: both,
		},
		{
			line: 10, claim: "a real Prometheus scraped through its ztunnel and answered queries",
			doing: "run Prometheus and query it", run: w.runPrometheus, of: []*member{w.prometheus, w.server},
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
	for _, m := range p.of {
		out.tail(m.name, m.zt.Log.Tail(tailLines))
	}
}
