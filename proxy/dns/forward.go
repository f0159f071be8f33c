package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// Limits of a forwarder.
const (
	// maxSockets is how many queries may have a socket to a resolver; the others
	// wait for one.
	maxSockets = 200
	// defaultTimeout bounds one try at one resolver, if the configuration does
	// not, and queryTimeout all that is done for a query. Clients ask again after
	// 5 s, most of them.
	defaultTimeout = 5 * time.Second
	queryTimeout   = 10 * time.Second
	// defaultAttempts is how often a resolver that says nothing is asked.
	defaultAttempts = 2
	// maxAliases bounds the aliases that are followed for one question, as in
	// the reference.
	maxAliases = 8
)

// Upstreams are the resolvers that are asked what the mesh does not know.
type Upstreams struct {
	Servers  []netip.AddrPort // in the order in which they are asked
	Timeout  time.Duration    // of one try at one of them; zero: 5 s
	Attempts int              // tries at one that says nothing; zero: 2
	EDNS     bool             // offer EDNS in every query, not only if the client does
	Hosts    Hosts            // names that are known without asking; may be nil
	// Control prepares the sockets, to mark them and to put them into a
	// namespace. Nil leaves them alone.
	Control func(network, address string, c syscall.RawConn) error
	// OpenUDP opens sockets for UDP, to be connected to addresses of the family of
	// dst, without waiting: as many as fds has places. They do not wait either. It
	// returns how many there are, one at least without an error. Nil has package
	// net do it if there is Control, else opens them in the process's namespace.
	OpenUDP func(dst netip.Addr, fds []int) (int, error)
}

// forwarder asks resolvers and keeps their answers. Idle it has neither sockets
// nor buffers.
type forwarder struct {
	*Upstreams
	ended   <-chan struct{}       // is closed when the forwarder is not to ask any more; nil: never
	sockets chan struct{}         // holds a token for each socket to a resolver
	good    atomic.Int32          // the resolver that is asked first: the last one to answer
	kept    atomic.Pointer[cache] // nil before the first query
}

// newForwarder returns a forwarder with these resolvers, which it keeps and
// completes.
func newForwarder(u *Upstreams, ended <-chan struct{}) *forwarder {
	if u.Timeout <= 0 {
		u.Timeout = defaultTimeout
	}
	if u.Attempts <= 0 {
		u.Attempts = defaultAttempts
	}
	if u.OpenUDP == nil && u.Control == nil {
		u.OpenUDP = openUDP
	}
	return &forwarder{Upstreams: u, ended: ended, sockets: make(chan struct{}, maxSockets)}
}

// ask returns the answer to a plain query.
func (f *forwarder) ask(ctx context.Context, q *question) (*reply, error) {
	asked := dns.Question{Name: dns.Fqdn(string(q.name.text)), Qtype: q.qtype, Qclass: q.qclass}
	if m := f.Hosts.answer(asked); m != nil {
		return newReply(q, m, time.Now())
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	key := q.appendKey(make([]byte, 0, maxName+5))
	for {
		kept := f.cache()
		r, same, first := kept.join(key, time.Now())
		if r != nil {
			return r, nil
		}
		if first {
			return kept.lead(key, same, func() (*reply, error) { return f.askResolvers(ctx, q, asked, nil) })
		}
		select {
		case <-same.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the answer to the same query: %w", ctx.Err())
		}
		if !errors.Is(same.err, context.Canceled) {
			return same.reply, same.err
		}
		if err := ctx.Err(); err != nil { // it is not only the other who does not wait any more
			return nil, err
		}
	}
}

// askResolvers asks the resolvers what is not known. first is what came of the
// first try, or nil if there was none yet.
func (f *forwarder) askResolvers(ctx context.Context, q *question, asked dns.Question, first *outcome) (*reply, error) {
	m, err := f.follow(ctx, q, asked, first)
	if err != nil {
		return nil, err
	}
	return newReply(q, m, time.Now())
}

// cache is where answers are kept, which begins with the first query.
func (f *forwarder) cache() *cache {
	c := f.kept.Load()
	if c == nil {
		f.kept.CompareAndSwap(nil, new(cache))
		c = f.kept.Load()
	}
	return c
}

// keptFor returns the answer that is kept for a key, or nil.
func (f *forwarder) keptFor(key []byte, now time.Time) *reply {
	if c := f.kept.Load(); c != nil {
		return c.get(key, now)
	}
	return nil
}

// follow asks a question, and those to which aliases lead if the resolver has
// not followed them itself. first is as for askResolvers.
func (f *forwarder) follow(ctx context.Context, q *question, asked dns.Question, first *outcome) (*dns.Msg, error) {
	m, err := f.query(ctx, q, asked, first)
	if err != nil {
		return nil, err
	}
	answers, end := belonging(asked, m.Answer)
	for depth := 0; ; depth++ {
		if end == "" || depth > maxAliases {
			return nil, errors.New("the aliases in an answer have no end")
		}
		if !unfinished(m, asked, answers, end) {
			m.Answer = answers
			return m, nil
		}
		next := asked
		next.Name = end
		if m, err = f.query(ctx, q, next, nil); err != nil {
			return nil, err
		}
		var more []dns.RR
		more, end = belonging(next, m.Answer)
		answers = append(answers, more...)
		m.Question = []dns.Question{asked}
	}
}

// unfinished reports whether an answer ends with an alias of which it does not
// tell what is there. A zone's SOA record says that nothing is.
func unfinished(m *dns.Msg, asked dns.Question, answers []dns.RR, end string) bool {
	addresses := asked.Qtype == dns.TypeA || asked.Qtype == dns.TypeAAAA
	if !addresses || m.Rcode != dns.RcodeSuccess || strings.EqualFold(end, asked.Name) {
		return false
	}
	there := func(rr dns.RR) bool {
		return rr.Header().Rrtype == asked.Qtype && strings.EqualFold(rr.Header().Name, end)
	}
	soa := func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeSOA }
	return !slices.ContainsFunc(answers, there) && !slices.ContainsFunc(m.Ns, soa)
}

// pack returns the query to a resolver for a question of ours, on behalf of that
// of a client. It has no identifier yet.
func (f *forwarder) pack(q *question, asked dns.Question) ([]byte, error) {
	m := dns.Msg{Question: []dns.Question{asked}}
	m.RecursionDesired, m.CheckingDisabled = true, q.flags&flagCheckingDisabled != 0
	if q.edns || f.EDNS {
		m.SetEdns0(offeredSize, q.dnssec)
	}
	packet, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("encode a query: %w", err)
	}
	return packet, nil
}

// query asks the resolvers one after the other, until one of them has an answer.
// first is as for askResolvers.
func (f *forwarder) query(ctx context.Context, q *question, asked dns.Question, first *outcome) (*dns.Msg, error) {
	packet, err := f.pack(q, asked)
	if err != nil {
		return nil, err
	}
	var last *dns.Msg // an answer that another resolver might not give
	err = f.try(ctx, f.Attempts, func(upstream netip.AddrPort) (done bool, err error) {
		var known *outcome
		if first != nil && first.of == upstream {
			known, first = first, nil
		}
		answer, err := f.exchangePlain(ctx, upstream, packet, known)
		if err != nil {
			return false, err
		}
		last = answer
		return isFinal(answer.Rcode), nil
	})
	if last != nil {
		last.Question = []dns.Question{asked}
		return last, nil
	}
	return nil, err
}

// isFinal reports whether another resolver would not give a better answer.
func isFinal(code int) bool { return code == dns.RcodeSuccess || code == dns.RcodeNameError }

// relay hands a message on as it is, and returns the answer as it is but for the
// identifier.
func (f *forwarder) relay(ctx context.Context, network string, q *question, packet []byte) (answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	err = f.try(ctx, 1, func(upstream netip.AddrPort) (bool, error) {
		var err error
		answer, err = f.exchange(ctx, network, upstream, packet, q)
		return err == nil, err
	})
	if answer == nil {
		return nil, err
	}
	answer[0], answer[1] = byte(q.id>>8), byte(q.id)
	return answer, nil
}

// try calls ask with the resolvers in turn until it is done. If none of them has
// answered anything, it begins again, so many times in all. The error is that of
// all tries.
func (f *forwarder) try(ctx context.Context, attempts int, ask func(netip.AddrPort) (done bool, err error)) error {
	if len(f.Servers) == 0 {
		return errors.New("no resolver is configured")
	}
	var errs []error
	answered := make([]bool, len(f.Servers))
	for range attempts {
		good := int(f.good.Load())
		for i := range f.Servers {
			i = (good + i) % len(f.Servers)
			done, err := ask(f.Servers[i])
			if done {
				f.good.Store(int32(i))
				return nil
			}
			answered[i] = err == nil
			if err != nil {
				errs = append(errs, fmt.Errorf("ask %s: %w", f.Servers[i], err))
			}
			if ctx.Err() != nil {
				return errors.Join(errs...)
			}
		}
		if slices.Contains(answered, true) {
			break
		}
	}
	return errors.Join(errs...)
}
