// Package inpod speaks the protocol of the CNI node agent (ZDS): it learns from
// it which pods of the node are to be served, and tells an injected PodSet to
// start and stop them.
//
//	agent ──(unix socket, one message per packet, one descriptor)──► session ──► states ──► PodSet
//	      ◄──────────────── one answer per message ─────────────────┘
//
// A session is one connection to the agent. What is known of the pods outlives
// it, so a restart of the agent disturbs none of them. The package knows
// nothing of sockets in pods or of traffic.
package inpod
