// Package mesh makes a mesh on one machine: nodes and pods are network
// namespaces of the process, connected by veth pairs and bridges, and pods are
// captured by redirection rules equal in effect to those of Istio's CNI agent.
//
//	pod ─eth0──veth─┐                                    ┌─veth──eth0─ pod
//	pod ─eth0──veth─┤ br0 of a node ─uplink══════uplink─ br0 of a node ├─…
//	                └────────────┘      │ fabric │       └────────────┘
//
// Nothing of the host's network is touched: all namespaces are unnamed, the
// bridges live in namespaces of their own, no interface, route or rule is made
// outside of them, and all is gone with the last handle, at the latest with the
// process.
//
// The package owns namespaces, links, redirection, packet capture, processes in
// namespaces, ztunnel among them. It does not know what a test or
// demonstration wants to see, nor of control planes; loadtest/cluster does.
package mesh
