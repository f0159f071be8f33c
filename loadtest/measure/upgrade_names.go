package measure

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"ztunnel/loadtest/cluster"
)

const (
	// questionEvery is between two questions for a name during upgrades.
	questionEvery = 10 * time.Millisecond
	// questionLimit is how long an answer may take: less than the time after which
	// resolvers ask again, who lose no less for it.
	questionLimit = 2 * time.Second
)

// anyNameserver is whom the pods ask. Nobody has the address: the question is
// captured.
var anyNameserver = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 0, 53}), namePort)

// resolve asks for the service's address over UDP by the clock until ctx ends, on
// a new socket each time as resolvers do.
func (u *upgrades) resolve(ctx context.Context) {
	var asking sync.WaitGroup
	defer asking.Wait()
	tick := time.NewTicker(questionEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asking.Go(func() {
			start := time.Now()
			u.question(start, u.lookup(context.WithoutCancel(ctx), u.clients[n%2]))
		})
	}
}

// lookup asks once from a pod.
func (u *upgrades) lookup(ctx context.Context, from *cluster.Pod) error {
	var conn net.Conn
	err := from.Do(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "udp", anyNameserver.String())
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(questionLimit)); err != nil {
		return err
	}
	stream := &dns.Conn{Conn: conn}
	if err := stream.WriteMsg(new(dns.Msg).SetQuestion("echo.servers.svc.cluster.local.", dns.TypeA)); err != nil {
		return err
	}
	answer, err := stream.ReadMsg()
	if err != nil {
		return err
	}
	if len(answer.Answer) != 1 {
		return fmt.Errorf("%s with %d records", dns.RcodeToString[answer.Rcode], len(answer.Answer))
	}
	return nil
}
