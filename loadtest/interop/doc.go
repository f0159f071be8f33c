// Package interop proves that ztunnel works with a real Envoy, as a waypoint and
// as the gateway of another network, over IPv4 and over IPv6. Both are stock
// Envoys: what istiod makes of them is here put together of what every Envoy has.
//
//	client ─ ztunnel ══HBONE══ Envoy (waypoint) ══HBONE══ ztunnel ─ server
//	client ─ ztunnel ══HBONE══ Envoy (gateway) ───────── ztunnel ─ server
//	              └────────────────HBONE─────────────────┘
//
// It runs on the one-machine mesh of loadtest/cluster, measures everything that
// it claims, there and then, and ends with a table of it. The package owns
// Envoy's configuration and process, and the steps of the proof.
//
// Its tests let the resolver of glibc, dig and nsupdate ask for names in a
// captured pod of such a mesh. They need no Envoy, and so are tests like others.
package interop
