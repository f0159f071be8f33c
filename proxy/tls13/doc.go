// Package tls13 protects the records of a TLS 1.3 connection whose handshake
// crypto/tls has done.
//
// It owns what RFC 8446 says of a connection after its handshake: the traffic
// keys and their updates (§7.2, §7.3, §4.6.3), the protection of records (§5.2),
// alerts (§6) and the messages that may still come. It does not own sockets,
// buffers or the handshake, and verifies nobody: crypto/tls decides who the peer
// is before a [Session] exists. The HBONE engine calls it, so that application
// bytes are sealed from the buffer that they were read into straight into the
// buffer that is written, and opened likewise.
//
// The traffic secrets come from crypto/tls by tls.Config.KeyLogWriter, see
// [Secrets]. They never leave the process.
//
// # Decision
//
// crypto/tls copies every byte twice on its way out and twice on its way in, and
// its AES-GCM uses neither 256 nor 512 bit registers. The two were a quarter of
// what a byte costs. The price is a record layer of our own; it is small, it has
// crypto/tls as its oracle in tests, and TLS_RECORD_LAYER goes back to
// crypto/tls.
package tls13
