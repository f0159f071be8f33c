// Package cni is the CNI node agent's side of ZDS: it tells the ztunnels of a
// node which pods they are to serve, and hands them the pods' network
// namespaces.
//
//	ztunnel                     agent
//	   │ ───── hello ─────────▶ │
//	   │ ◀──── add + netns ──── │  for each pod that it knows, and again
//	   │ ───── ack ───────────▶ │  for each that comes later
//	   │ ◀──── snapshot sent ── │  between the two
//	   │ ───── ack ───────────▶ │
//	   │ ◀──── del ──────────── │
//	   │ ───── ack ───────────▶ │
//
// The conversation and its deadlines are those of Istio's node agent, with one
// difference: a connection on which an answer came too late is closed, since it
// could be taken for the next one's. The package knows nothing of redirection
// rules or of where pods come from.
package cni
