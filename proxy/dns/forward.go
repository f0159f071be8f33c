package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// forward asks the resolvers one after the other, over the same transport.
func (s *Server) forward(network string, query *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(s.ctx, queryTimeout)
	defer cancel()
	select {
	case s.upstream <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a socket: %w", ctx.Err())
	}
	defer func() { <-s.upstream }()
	if err := s.ctx.Err(); err != nil { // of all, because it ends before those of the others do
		return nil, fmt.Errorf("wait for a socket: %w", err)
	}
	errs := []error{}
	for _, upstream := range s.config.Upstreams {
		answer, err := s.ask(ctx, network, upstream, query)
		if err == nil {
			return answer, nil
		}
		errs = append(errs, fmt.Errorf("ask %s: %w", upstream, err))
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 0 {
		return nil, errors.New("no resolver is configured")
	}
	return nil, errors.Join(errs...)
}

// ask asks one resolver. Each query has a socket of its own, and with it a
// random port, which is what makes forged answers improbable.
func (s *Server) ask(ctx context.Context, network string, upstream netip.AddrPort, query *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	client := dns.Client{
		Net: network, Timeout: upstreamTimeout, UDPSize: dns.MaxMsgSize,
		Dialer: &net.Dialer{Timeout: upstreamTimeout, Control: s.config.Control},
	}
	conn, err := client.DialContext(ctx, upstream.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // the exchange heeds the deadline of ctx only
	defer stop()
	answer, _, err := client.ExchangeWithConnContext(ctx, query.Copy(), conn)
	if err != nil {
		return nil, err
	}
	if len(answer.Question) > 0 && !slices.EqualFunc(answer.Question, query.Question, sameQuestion) {
		return nil, errors.New("the answer is to another question")
	}
	return answer, nil
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
