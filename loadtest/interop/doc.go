// Package interop proves that ztunnel works with a real Envoy, as a waypoint and
// as the gateway of another network. Both are stock Envoys: what istiod makes of
// them is here put together of what every Envoy has.
//
//	client ─ ztunnel ══HBONE══ Envoy (waypoint) ══HBONE══ ztunnel ─ server
//	client ─ ztunnel ══HBONE══ Envoy (gateway) ───────── ztunnel ─ server
//	              └────────────────HBONE─────────────────┘
//
// It runs on the one-machine mesh of loadtest/cluster, measures everything that
// it claims, there and then, and ends with a table of it. The package owns
// Envoy's configuration and process, and the steps of the proof.
package interop
