// Package show is the demonstration: a mesh of two nodes in shared mode, and
// what a ztunnel does for its pods, proven step by step. It measures everything
// that it claims, there and then, and ends with a table of it.
//
// It runs under any drop-in ztunnel. What only the ztunnel of this repository
// claims, that telemetry is a workload of the mesh and open to nobody else, is
// left out for a binary whose metrics are open.
package show
