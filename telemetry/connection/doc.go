// Package connection is the record of one proxied connection. It owns what
// becomes of a connection in telemetry: the Istio TCP metrics with their label
// rules, the life of their series, the counts of refusals, and the lines of
// the access log. It knows strings and numbers only: inbound, outbound and
// socks translate workloads, services and identities into [Details], open a
// [Record], let the byte path add to its two counters, and close it.
//
//	accept ── SocketOpened ── Open(Details) ─► Record ── Close(err) ── SocketClosed
//	              │               │              ▲           │
//	              └ Reject        └ opened +1    │           └ closed, failed, access line
//	                                             └ Received, Sent: one atomic add per chunk
//
// Labels are resolved once, at Open, to a series that all connections of the
// same two ends share, and which the next connection between the same workloads
// finds by their addresses in memory. Nothing is summed while bytes flow: a
// collection adds what closed connections left behind to what the live ones
// have counted.
//
// The package does not export anything itself. metrics.go registers observable
// instruments with an injected meter, and the log goes to an injected logger.
package connection
