// Package proxy puts the data path together: Node is what all pods of a node
// share, Pod is the listeners of one pod. A process in dedicated mode is a node
// with one pod.
//
//	application ─► 15001 outbound ─► route ─► hbone.Pool ═══ HBONE ═══► 15008 inbound ─► rbac ─► application
//	                                   └────► plain TCP ──────────────► 15006 inbound ─► rbac ─► application
//	reader      ─► 15001 outbound ─► hbone.Pool ═══ HBONE ═══► 15008 inbound ─► rbac ─► virtual port ─► metrics
//
// The package decides nothing about a connection; it wires, starts, drains and
// stops. Package cmd/ztunnel makes the parts and hands them in.
package proxy

import (
	"log/slog"
	"sync"
	"sync/atomic"

	"ztunnel/proxy/config"
	"ztunnel/proxy/dns"
	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/inbound"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/worker"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// Node is what the pods of a node share. Its exported fields are set before
// the first OpenPod and not changed afterwards.
type Node struct {
	Config       *config.Config
	Store        *workload.Store
	Policies     *rbac.Set
	Certificates inbound.Certificates
	Revocations  *identity.CRL // ends tunnels of peers that are revoked; nil ends none
	Recorder     *connection.Recorder
	ServerHBONE  *hbone.Config   // of tunnels that arrive
	ClientHBONE  *hbone.Config   // of tunnels that are dialled
	Resolver     *dns.Resolver   // of workloads that are only known by a hostname; nil: the standard library's
	Hosts        dns.Hosts       // names that DNS knows without asking; may be nil
	Demand       workload.Demand // gets what Store does not have yet; nil if it has all
	// Log returns the logger of a scope.
	Log func(scope string) *slog.Logger
	// Span marks lines of the log as part of something that is going on; nil
	// leaves the marks away.
	Span func(log *slog.Logger, name string, attrs ...slog.Attr) *slog.Logger
	// PodLog returns the logger of a scope for lines about one of many pods,
	// which it marks with a span, such as "proxy", and the pod as
	// NAMESPACE/NAME. Nil leaves the marks away.
	PodLog func(scope, span, pod string) *slog.Logger

	queriesOnce sync.Once
	queries     *slog.Logger // see queryLog

	workers  worker.Pool  // run the set-up of connections
	panics   atomic.Int64 // recovered in connections
	draining atomic.Int64 // 1 from the begin of a drain
	forced   atomic.Int64 // connections cut at the deadline of a drain
	pools    pools        // of the open pods
	watcher  watcher      // of their connections
}

// Panics counts what was recovered from, for all who serve on the node.
func (n *Node) Panics() *atomic.Int64 { return &n.panics }

// Drain notes for the metrics that the node drains. The pods learn of it by
// the channel that their Serve has.
func (n *Node) Drain() { n.draining.Store(1) }

// Go runs a short task on a goroutine of the node that need not grow its stack.
func (n *Node) Go(task func()) { n.workers.Go(task) }

// Trim gives back what the node keeps for the next burst.
func (n *Node) Trim() {
	n.workers.Trim()
	hbone.Trim()
}

// Close ends what belongs to the node, after all pods have been served.
func (n *Node) Close() { n.workers.Close() }
