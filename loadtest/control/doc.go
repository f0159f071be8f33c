// Package control is a small control plane for one machine: delta xDS and a
// certificate authority in one gRPC server, as a ztunnel finds them in istiod.
//
//	Update ──▶ store ──marks──▶ stream ──▶ ztunnel     (one stream per ztunnel)
//	             ▲                 ▲
//	             │ which node      │ subscriptions, ACK, NACK
//	CA ◀── CreateCertificate       └── ztunnel
//
// It knows workloads, services and policies only as the messages that are sent,
// encoded once when they are given; who makes them up stands above it, with the
// builders of this package if that helps. It is a peer of the proxy: nothing
// here is part of one, and any ztunnel may connect.
//
// What it does is what istiod does, with these differences. A response holds
// all that changed since the one before it, so that a slow client costs no
// memory beyond names. A resource whose content is the same again is not sent
// again. A name that is subscribed to once more is answered once more, as the
// xDS protocol says. Tokens are its own and never expire.
package control
