package show

import (
	"time"

	"ztunnel/loadtest/console"
)

const (
	// tailLines is how much of a log is shown when something failed.
	tailLines = 15
	// awaitLimit is how long something may take that should be there at once.
	awaitLimit = 5 * time.Second
	// pollEvery is how often something is tried that cannot be waited for.
	pollEvery = 5 * time.Millisecond
)

// proofs are all of them, in the order in which they are done: what is compared
// with all that was sent comes before what sends more.
func (w *world) proofs() []*console.Proof {
	return []*console.Proof{
		{Doing: "the shop talks to the stock, while the wire is recorded", Run: w.talk},
		{
			Line: 3, Claim: "Prometheus' identity read the metrics of both nodes through the mesh",
			Doing: "Prometheus reads the metrics of both ztunnels", Run: w.read,
		},
		{
			Line: 4, Claim: "a stranger of the mesh was refused by policy, and left a trace",
			Doing: "a stranger of the mesh tries to read them", Run: w.readAsStranger,
		},
		{
			Line: 1, Claim: "user bytes crossed the wire inside TLS only",
			Doing: "search the recording, and one of plaintext as control", Run: w.search,
		},
		{
			Line: 2, Claim: "between pods of the mesh only port 15008 was used",
			Doing: "look at the ports of the recording", Run: w.ports,
		},
		{
			Line: 5, Claim: "a plaintext scrape was refused: no socket listens",
			Doing: "somebody outside of the mesh tries to read metrics", Run: w.readInPlaintext,
		},
		{
			Line: 6, Claim: "metrics of both sides name both workloads and count every byte",
			Doing: "compare the metrics with what was sent", Run: w.account,
		},
		{
			Line: 7, Claim: "access log lines of both sides say who, to whom and how much",
			Doing: "compare the access logs with what was sent", Run: w.logs,
		},
		{
			Line: 8, Claim: "certificates came from the CA, one identity each",
			Doing: "ask pods and ztunnels for their certificates", Run: w.certificates,
		},
		{
			Line: 9, Claim: "the application saw its client's address, not ztunnel's",
			Doing: "the shop asks the stock whom it sees", Run: w.sources,
		},
		{
			Line: 15, Claim: "a pod found a service by name through the DNS proxy, and reached it there",
			Doing: "the shop looks the stock up, and uses it by name", Run: w.names,
		},
		{
			Line: 10, Claim: "a policy change cut a flowing connection that it does not allow any more",
			Doing: "deny everything while connections are open", Run: w.deny,
		},
		{
			Line: 11, Claim: "a pod added live was served at once, as server and as client",
			Doing: "add a pod to a node", Run: w.addPod,
		},
		{
			Line: 12, Claim: "a pod removed live had its connections ended",
			Doing: "remove it while a connection is open", Run: w.removePod,
		},
		{
			Line: 13, Claim: "an upgrade let an open connection finish, and took new ones all the time",
			Doing: "replace a node's ztunnel while a connection is open", Run: w.upgrade,
		},
		{
			Line: 14, Claim: "a real Prometheus scraped both nodes through its ztunnel, and answered",
			Doing: "run Prometheus and query it", Run: w.runPrometheus,
		},
	}
}

// tails shows what the ztunnels said last.
func (w *world) tails(out *console.Console) {
	for _, z := range w.ztunnels {
		if z != nil {
			out.Tail(z.Name, z.Log.Tail(tailLines))
		}
	}
}
