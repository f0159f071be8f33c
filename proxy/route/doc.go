// Package route decides where a connection goes. [Pick] is the outbound side:
// from the source workload, the original destination and the store it answers
// passthrough, direct TCP, HBONE to a workload or waypoint, double HBONE to a
// network gateway, or a refusal. [Inbound] is the other end: which address of
// the pod the authority of a CONNECT request means, or why it is refused.
//
// All functions are pure: same input, same random numbers, same answer. They
// open no sockets, wait for nothing and log nothing; where an answer needs DNS
// they say so and the caller looks the name up ([Decision.Resolve]). Callers
// are the outbound and inbound listeners.
//
//	target ─► service VIP? ─► its waypoint ──────────────► HBONE to the waypoint
//	              │ no waypoint        └─ other network ─┐
//	              ▼                                      ▼
//	         endpoint or workload ──── other network ──► double HBONE to the gateway
//	              │       └ none: passthrough, or refused if it was a service
//	              ├─ waypoint of a workload addressed directly ─► HBONE to it
//	              └─ direct: HBONE or TCP
package route
