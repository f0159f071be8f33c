// Package cluster runs a mesh in shared mode on one machine: a control plane,
// and for each node a CNI agent, a ztunnel and pods, in the network that
// loadtest/mesh makes. Any ztunnel binary may serve it.
//
//	node-1  ztunnel ◀── ZDS ── agent      pods: captured or not
//	node-2  ztunnel ◀── ZDS ── agent      pods …
//	outside xDS and CA for all ztunnels, at an address of their own
//
// A ztunnel stands in a namespace of its own beside the pods that it serves, as
// in a pod of Kubernetes, and is a workload of the mesh itself, so that its
// telemetry can be reached through the mesh. Control plane, agents and
// applications run in this process.
//
// The package owns the order in which these are told of each other. It does not
// know what a test or demonstration wants to see.
package cluster
