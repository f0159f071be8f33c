// Package hbone carries application connections as HTTP/2 CONNECT streams over
// mutual TLS.
//
// It owns the HTTP/2 engine of both roles ([ClientConn], [ServerConn]), the
// [Stream], the pool of client tunnels ([Pool]) and the header fields that the
// mesh puts on a CONNECT. It does not own sockets, certificates, routing or
// policy: callers bring connections, TLS configurations and decisions. The
// outbound and inbound proxies and the load test call it.
//
// # How bytes move
//
// A tunnel has one reader goroutine and no writer goroutine. A stream has one
// goroutine, the caller of [Stream.Relay], which reads the application's socket
// and writes to the tunnel. The other way has none: the reader decrypts a batch
// of records and writes DATA straight to the application's socket, without
// blocking; only while that socket is full a temporary goroutine drains a
// queue, which the stream's receive window bounds.
//
//	app socket --(stream goroutine)--> HTTP/2 frame -> TLS -> gathered write -> tunnel
//	app socket <--(tunnel's reader)--- HTTP/2 frame <- TLS <- batched read  <-- tunnel
//
// crypto/tls makes the handshake; after it package tls13 protects the records,
// where it can.
//
// The reader never blocks on the tunnel: what it has to say (acknowledgements,
// window updates, resets) goes to a list that whoever holds the write lock
// sends, the reader itself if nobody does.
//
// # Faults of peers
//
// Every fault is answered with the code of RFC 9113, as an error of the stream
// where the RFC allows it. What a peer can make us do for nothing is bounded by
// [Limits], the memory it can make us hold by the windows; attacks_test.go lists
// the known attacks with the tests that hold them.
//
// # Locks
//
// conn.wmu serialises what is written to the tunnel and may be held while the
// tunnel's socket is full. conn.mu guards the stream table, the flow-control
// windows and the state of streams and is held for moments only. Stream.mu
// guards one stream's received data. Order: wmu before mu; Stream.mu and mu are
// never held together.
package hbone
