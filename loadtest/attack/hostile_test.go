package attack

import (
	"context"
	"crypto/tls"
	"math"
	"net"
	"testing"
	"time"
)

// Those who are attacked may defend themselves, or be stuck.
var hostile = []struct {
	name string
	// comeAgain tells whether attackers must.
	comeAgain bool
	handle    handler
}{
	{"reset", true, func(s *sight, c *net.TCPConn) {
		s.step(false)
		abort(c)
	}},
	{"leave", true, func(s *sight, c *net.TCPConn) {
		s.step(false)
		shake(c)
		abort(c)
	}},
	{"silent", false, func(s *sight, _ *net.TCPConn) { <-s.gone }},
	{"stuck", false, func(s *sight, c *net.TCPConn) {
		_ = c.SetReadBuffer(1) // the least there is
		shake(c)
		<-s.gone
	}},
}

// shake shakes hands with those who want to.
func shake(c net.Conn) {
	_ = tls.Server(c, &tls.Config{
		Certificates: []tls.Certificate{certificate()}, NextProtos: []string{"h2"}, ClientAuth: tls.RequireAnyClientCert,
	}).Handshake()
}

// Attacks on somebody who defends himself go on, keep to their share, tell the
// truth and end in time.
func TestHostile(t *testing.T) {
	alone(t)
	for i := range All {
		c := claims[All[i].Name]
		if c.tcp == nil {
			continue // datagrams want nothing of anybody
		}
		for _, h := range hostile {
			t.Run(All[i].Name+"/"+h.name, func(t *testing.T) {
				const again = 20
				s := newSight(again)
				most := 20 * time.Millisecond
				if h.comeAgain {
					most = limit
				}
				var one *attacker
				e := s.watch(t, most, s.listen(t, c.at, h.handle), func(ctx context.Context) Progress {
					to := target(t)
					identity, err := to.identity()
					if err != nil {
						t.Error(err)
					}
					one = &attacker{Target: to, identity: identity, ctx: ctx, throttle: throttle{share: 2}}
					All[i].run(one)
					return Progress{Units: one.done, Connections: one.opened.Load()}
				})
				if e.wrong != nil || h.comeAgain && e.steps < again {
					t.Errorf("it came %d times, want %d: %v", e.steps, again, e.wrong)
				}
				if e.Units > 0 && !c.blind && h.name == "reset" {
					t.Errorf("it tells of %d units, and got nowhere", e.Units)
				}
				if waits := int64(one.throttle.n); waits < e.Units || waits < e.Connections {
					t.Errorf("its throttle was asked %d times for %d units and %d connections, want each time", waits, e.Units, e.Connections)
				}
			})
		}
	}
}

// An attack that finds nobody tells so; one of datagrams cannot know.
func TestRun_Nobody(t *testing.T) {
	alone(t)
	for i := range All {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		p, err := All[i].Run(ctx, target(t), 2)
		cancel()
		if found := p.Units > 0 || p.Connections > 0; err != nil || found && claims[All[i].Name].udp == nil {
			t.Errorf("%s: %+v, %v, want nothing", All[i].Name, p, err)
		}
	}
}

// The names of one attack are not those of another before: they would be known.
func TestNewNames(t *testing.T) {
	alone(t)
	const name = "dns flood, unknown names"
	c := claims[name]
	a, _ := Find(name)
	before := map[string]bool{}
	for range 2 {
		s := newSight(c.steps)
		s.names = before
		if e := c.run(t, &a, s); e.wrong != nil {
			t.Error(e.wrong)
		}
	}
}

// An attack keeps to its share of a processor, with all that the process does.
func TestShare(t *testing.T) {
	alone(t)
	for _, name := range []string{"ping flood", "connection flood", "http flood, readiness"} {
		t.Run(name, func(t *testing.T) {
			const share, most = 0.1, 300 * time.Millisecond
			c := claims[name]
			c.steps = math.MaxInt
			a, _ := Find(name)
			s := newSight(c.steps)
			before := processorTime()
			s.watch(t, most, c.receive(t, s), func(ctx context.Context) Progress {
				p, err := a.Run(ctx, target(t), share)
				if err != nil {
					t.Error(err)
				}
				return p
			})
			if used := processorTime() - before; used > most/2 {
				t.Errorf("%s were used of %s, want about %s", used, most, time.Duration(share*float64(most)))
			}
		})
	}
}
