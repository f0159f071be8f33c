package measure

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/miekg/dns"
)

// outsideAddr is what the name server outside of the mesh answers to every
// question for an IPv4 address.
var outsideAddr = netip.AddrFrom4([4]byte{192, 0, 2, 7})

// nameTTL is that of its answers, seconds. It is short, so that a cache is seen
// to be one, but not so short that it is of no use.
const nameTTL = 30

// nameserver answers questions over UDP until ctx ends. It serves the names
// outside of the mesh.
func nameserver(ctx context.Context, at netip.AddrPort) error {
	conn, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", at.String())
	if err != nil {
		return err
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(answerOutside)}
	stopped := make(chan struct{})
	defer func() { <-stopped }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // the caller waits for it
		defer close(stopped)
		<-ctx.Done()
		_ = conn.Close()
	}()
	err = server.ActivateAndServe()
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func answerOutside(w dns.ResponseWriter, question *dns.Msg) {
	answer := new(dns.Msg).SetReply(question)
	answer.RecursionAvailable = true
	if len(question.Question) == 1 && question.Question[0].Qtype == dns.TypeA {
		answer.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: question.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: nameTTL}, A: outsideAddr.AsSlice(),
		}}
	}
	_ = w.WriteMsg(answer) // who asked sees if it is missing
}

// nameserverScript is the name of what withNameserver makes.
const nameserverScript = "ztunnel-with-names"

// withNameserver makes a program of a ztunnel whose /etc/resolv.conf names a
// server. It is a script: what it needs, unshare and mount of util-linux, every
// Linux has, and the process keeps its number.
func withNameserver(dir, binary string, server netip.Addr) error {
	config := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, "nameserver %s\n", server), 0o600); err != nil {
		return err
	}
	script := fmt.Sprintf(`#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec unshare --mount --propagation private sh -c 'mount --bind "$0" /etc/resolv.conf && exec "$1"' '%s' '%s'
`, config, binary)
	return os.WriteFile(filepath.Join(dir, nameserverScript), []byte(script), 0o700) //nolint:gosec // it is a program
}
