// Package identity owns who we are and who a peer is: the certificates of the workloads we serve, their renewal, and the
// TLS of both sides of an HBONE tunnel.
//
// A [Manager] holds one [Certificate] for each spiffe.ID in use. It gets them from a [CA], renews them at half of their
// life and keeps the last one serving while a renewal fails. A Certificate makes the tls.Config of either side, which
// verifies the peer against the roots that came with that very certificate; there is no other trust bundle. [PeerID]
// reads the peer's identity from a finished handshake. A [CRL] knows which certificates were revoked: it refuses them in
// handshakes, and tells of tunnels that are open.
//
//	inbound, hbone.Pool ──Certificate(ctx, id, priority)──▶ Manager ──Sign──▶ CA (CAClient or FakeCA)
//	      │             ◀──*Certificate──┐                    │ Run: queue, renewal, backoff
//	      │                              └ ServerConfig, ClientConfig ──chains──▶ CRL
//	      └──Track(tunnel, revoked)───────────────────────────────────────────────▶│ Run: file
//
// It does not decide which peers may talk to a workload beyond the trust domain (package rbac does), does not look up
// workloads, and never sees a socket. Packages proxy, inbound and outbound call it.
package identity
