package attack

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"time"
)

// handshakeAttacks come before anybody is authenticated.
var handshakeAttacks = []Attack{
	{
		Name: "connection flood", Unit: "connections", run: connectionFlood,
		Why: "Each connection costs descriptors, goroutines and a place in the limits.",
	},
	{
		Name: "tls handshake flood", Unit: "handshakes", run: helloFlood,
		Why: "The server computes a key exchange and a signature for a copied ClientHello.",
	},
	{
		Name: "complete handshakes", Unit: "handshakes", run: completeHandshakes,
		Why: "With a valid certificate the whole handshake costs both sides, and its state stays a moment.",
	},
	{
		Name: "slow handshake", Unit: "bytes", run: slowHandshake,
		Why: "Handshakes of one byte now and then hold the places of others.",
	},
	{
		Name: "slow preface", Unit: "tunnels", run: slowPreface,
		Why: "Tunnels that do not begin hold what others need.",
	},
	{
		Name: "garbage instead of tls", Unit: "connections", run: garbageTLS,
		Why: "What is no handshake must be refused early and logged once.",
	},
}

func connectionFlood(a *attacker) {
	for a.next() {
		if c := a.dial(a.hbone()); c != nil {
			abort(c)
			a.done++
		}
	}
}

// clientHello records what a client says first.
func clientHello() []byte {
	client, server := net.Pipe()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() { // ends when the pipe is closed
		config := &tls.Config{NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} //nolint:gosec // nobody is talked to
		_ = tls.Client(client, config).HandshakeContext(ctx)
	}()
	buffer := make([]byte, 8<<10)
	n, _ := server.Read(buffer) // one record is one write
	_ = server.Close()
	_ = client.Close()
	return buffer[:n]
}

// helloFlood waits for the first byte of the answer, so that the work is done
// when it leaves.
func helloFlood(a *attacker) {
	hello := clientHello()
	answer := make([]byte, 1)
	for a.next() {
		c := a.dial(a.hbone())
		if c == nil {
			continue
		}
		stop := a.abortAtEnd(c)
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write(hello); err == nil {
			n, _ := c.Read(answer) // none is no handshake
			a.done += int64(n)
		}
		stop()
		abort(c)
	}
}

func completeHandshakes(a *attacker) {
	for a.next() {
		if t := a.open(); t != nil {
			t.close()
			a.done++
		}
	}
}

// hold keeps many connections and does something with one after the other: with
// nothing done it only holds them. begin may return nil. Both count the units.
func (a *attacker) hold(many int, begin func() *net.TCPConn, do func(c *net.TCPConn, turn int) error) {
	held := make([]*net.TCPConn, many)
	turns := make([]int, many)
	defer func() {
		for _, c := range held {
			if c != nil {
				abort(c)
			}
		}
	}()
	for i := 0; a.next(); i = (i + 1) % many {
		if held[i] == nil {
			held[i], turns[i] = begin(), 0
			continue
		}
		_ = held[i].SetWriteDeadline(time.Now().Add(patience))
		if do(held[i], turns[i]) != nil {
			abort(held[i])
			held[i] = nil
		}
		turns[i]++
		a.rest()
	}
}

// rest makes slow attacks slow: one connection of many is touched at a time.
func (a *attacker) rest() {
	timer := time.NewTimer(time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.ctx.Done():
	}
}

// slowConnections is how many an attacker holds: more than a ztunnel lets wait
// for their handshake.
const slowConnections = 600

func slowHandshake(a *attacker) {
	hello := clientHello()
	a.hold(slowConnections, func() *net.TCPConn { return a.dial(a.hbone()) }, func(c *net.TCPConn, turn int) error {
		at := turn % len(hello)
		n, err := c.Write(hello[at : at+1])
		a.done += int64(n)
		return err
	})
}

func slowPreface(a *attacker) {
	var held []*tunnel
	defer func() {
		for _, t := range held {
			t.close()
		}
	}()
	for a.next() {
		if len(held) == slowTunnels {
			a.rest()
			held[0].close()
			held = held[1:]
		}
		if t := a.open(); t != nil { // the preface is in its buffer, and stays there
			held = append(held, t)
			a.done++
		}
	}
}

func garbageTLS(a *attacker) {
	garbage := random(512)
	for a.next() {
		a.throw(func() *net.TCPConn { return a.dial(a.hbone()) }, garbage)
	}
}

// throw sends something and leaves when it was answered, or was not.
func (a *attacker) throw(dial func() *net.TCPConn, what []byte) {
	c := dial()
	if c == nil {
		return
	}
	defer abort(c)
	_ = c.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Write(what); err == nil {
		a.done++
		_, _ = c.Read(make([]byte, 1))
	}
}

// random is n bytes, the same each time.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}
