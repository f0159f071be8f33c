// Package attack has the peers that misbehave in a load test: each takes a share
// of one processor, and no more, to do as much harm as it can with one kind of
// abuse. It measures nothing but how far it got; whether others suffer is for
// loadtest/measure to see.
package attack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Place says from where an attack comes.
type Place int

// The places.
const (
	// Outside is a pod of another node that is not captured. It has a valid
	// certificate of the mesh.
	Outside Place = iota
	// Inside is the pod that shares its ztunnel with those who suffer.
	Inside
	// Beside is ztunnel's own namespace, for what listens on its loopback address.
	Beside
)

// Target is what is attacked. It can be handed to another process as JSON.
type Target struct {
	// Pod is the address of a captured pod with an application at AppPort.
	Pod     netip.Addr
	AppPort uint16
	// Ztunnel is the address of ztunnel's own pod.
	Ztunnel netip.Addr
	// Certificate and Key are those of the attacker, for tunnels: DER, the key in
	// PKCS #8.
	Certificate [][]byte
	Key         []byte
}

// identity is the attacker's certificate.
func (t *Target) identity() (tls.Certificate, error) {
	key, err := x509.ParsePKCS8PrivateKey(t.Key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("key of the attacker: %w", err)
	}
	return tls.Certificate{Certificate: t.Certificate, PrivateKey: key}, nil
}

// hbone is where the pod's tunnels arrive.
func (t *Target) hbone() netip.AddrPort { return netip.AddrPortFrom(t.Pod, hbonePort) }

// app is the application, as a CONNECT names it.
func (t *Target) app() netip.AddrPort { return netip.AddrPortFrom(t.Pod, t.AppPort) }

// Ports of ztunnel.
const (
	outboundPort  = 15001
	hbonePort     = 15008
	dnsPort       = 15053
	adminPort     = 15000
	readinessPort = 15021
)

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Attack is one kind of abuse.
type Attack struct {
	Name string
	// Why says in a sentence what harm it could do.
	Why  string
	From Place
	// Unit is what is counted.
	Unit string
	run  func(*attacker)
}

// All are all attacks, by class.
var All = slices.Concat(frameAttacks, streamAttacks, headerAttacks, handshakeAttacks, plainAttacks, serviceAttacks)

// Find returns the attack of a name.
func Find(name string) (Attack, bool) {
	i := slices.IndexFunc(All, func(a Attack) bool { return a.Name == name })
	if i < 0 {
		return Attack{}, false
	}
	return All[i], true
}

// attacker runs one attack. It is for one goroutine.
type attacker struct {
	Target
	identity tls.Certificate
	ctx      context.Context
	throttle throttle
	done     int64        // units
	opened   atomic.Int64 // connections; also of others, whom it has connect
}

// Progress is how far an attack got.
type Progress struct {
	// Units are what was sent or done; what was refused at once does not count.
	// What was sent last may not have arrived.
	Units int64
	// Connections are those of TCP that came about.
	Connections int64
	Elapsed     time.Duration
}

// Run attacks until ctx ends, with at most the given share of a processor's time
// of this process: 0.25 is a quarter of one. It belongs in a process of its own,
// for all that the process does counts.
func (a *Attack) Run(ctx context.Context, to Target, share float64) (Progress, error) {
	identity, err := to.identity()
	if err != nil {
		return Progress{}, err
	}
	start := time.Now()
	one := &attacker{Target: to, identity: identity, ctx: ctx, throttle: throttle{share: share}}
	a.run(one)
	return Progress{one.done, one.opened.Load(), time.Since(start)}, nil
}

// next waits until a unit or a connection may be begun. It returns false when the
// attack is over.
func (a *attacker) next() bool { return a.throttle.wait(a.ctx) }
