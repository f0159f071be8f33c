// Package xds owns the client of the delta discovery protocol: one stream to Istio's control plane over which all types of
// resources come, the answers to it, what is claimed when the stream is opened anew, the back-off in between, and the
// subscriptions of on-demand mode.
//
// It knows nothing of what the resources mean. Each type has a [Handler], which decodes resources and puts them into force;
// package discovery has those of ztunnel. It does not know how a connection is authenticated either: that is [Channel].
//
//	control plane ── response ──> stream ── Batch ──> Handler ──> stores
//	              <─ ACK, NACK ──          <─ Reject ─
//	              <─ subscribe ── Demand   (on-demand mode)
//
// A response is never decoded as a whole. Its bytes are walked twice: once for type, nonce and removals, once resource by
// resource for the handler, which sees one body at a time. So a push of the whole mesh costs its own bytes and what the
// stores keep, not a second copy of it.
package xds
