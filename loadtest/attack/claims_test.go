package attack

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"
)

// A claim is what an attack says that it does.
type claim struct {
	// at is where it arrives.
	at netip.AddrPort
	// tcp receives a connection of it, or udp a datagram.
	tcp handler
	udp func(s *sight, query []byte) error
	// steps are how many are looked at.
	steps int
	// size is that of a unit on the wire, if units are not received one by one.
	size int
	// blind tells whether units can be had of somebody who refuses all.
	blind bool
	// more is what can be told at the end only.
	more func(t *testing.T, e *ended)
}

// ended is an attack that is over, and what was seen of it.
type ended struct {
	*sight
	Progress
	datagrams int       // sent meanwhile
	told      time.Time // when it was told to end
}

var (
	toHBONE = netip.AddrPortFrom(victim, hbonePort)
	toPlain = netip.AddrPortFrom(victim, plainPort)
	toReady = netip.AddrPortFrom(ztunnel, readinessPort)
	toLoop  = netip.AddrPortFrom(loopback, outboundPort)
	toAdmin = netip.AddrPortFrom(loopback, adminPort)
	toDNS   = netip.AddrPortFrom(loopback, dnsPort)
)

// claims are those of all attacks.
var claims = map[string]claim{
	"ping flood":       {at: toHBONE, tcp: hbone(pings), steps: 20_000, size: 17},
	"settings flood":   {at: toHBONE, tcp: hbone(settings), steps: 20_000, size: 15},
	"empty data flood": {at: toHBONE, tcp: hbone(emptyFrames), steps: 30_000, size: 9},
	"priority flood":   {at: toHBONE, tcp: hbone(priorities), steps: 20_000, size: 14},

	"rapid reset":     {at: toHBONE, tcp: hbone(afterEach(reset)), steps: 20_000, size: 24},
	"made you reset":  {at: toHBONE, tcp: hbone(afterEach(noIncrement)), steps: 20_000, size: 24},
	"stream flood":    {at: toHBONE, tcp: hbone(requests(theApp)), steps: 20_000, size: 11},
	"wrong authority": {at: toHBONE, tcp: hbone(requests("192.0.2.1:80")), steps: 20_000, size: 11},

	"continuation flood":       {at: toHBONE, tcp: hbone(endless(8+1000+32, false)), steps: 2_000, size: 900},
	"empty continuation flood": {at: toHBONE, tcp: hbone(endless(0, false)), steps: 30_000, size: 9},
	"hpack bomb":               {at: toHBONE, tcp: hbone(bombs), steps: 30, size: 12 << 10},
	"slow headers":             {at: toHBONE, tcp: hbone(endless(1+1+32, true)), steps: slowTunnels + 300, more: held(slowTunnels)},

	"connection flood":       {at: toHBONE, blind: true, tcp: floodedWithConnections, steps: 500},
	"tls handshake flood":    {at: toHBONE, tcp: floodedWithHellos, steps: 50},
	"complete handshakes":    {at: toHBONE, tcp: shakingHands, steps: 50},
	"slow handshake":         {at: toHBONE, blind: true, tcp: heldConnections([]byte{22, 3, 1}, true), steps: 2*slowConnections + 60, more: held(slowConnections)},
	"slow preface":           {at: toHBONE, tcp: heldTunnels, steps: slowTunnels + 20, more: held(slowTunnels)},
	"garbage instead of tls": {at: toHBONE, blind: true, tcp: notTLS(512), steps: 100},

	"plaintext garbage": {at: toPlain, blind: true, tcp: notTLS(512), steps: 100},
	"outbound loop":     {at: toLoop, blind: true, tcp: notTLS(64), steps: 100},
	"outbound nowhere":  {at: nowhere, blind: true, tcp: heldConnections([]byte("?"), false), steps: slowConnections + 300, more: held(slowConnections)},

	"dns flood, names of the mesh": {at: toDNS, udp: nameOfMesh, steps: 1_000},
	"dns flood, unknown names":     {at: toDNS, udp: newName, steps: 1_000},
	"dns flood, garbage":           {at: toDNS, udp: noQuery, steps: 1_000},
	"http flood, config dump":      {at: toAdmin, tcp: asked(toAdmin, "/config_dump"), steps: 200, more: inTurn},
	"http flood, readiness":        {at: toReady, tcp: asked(toReady, "/healthz/ready"), steps: 200, more: inTurn},
}

// Who adds an attack must also say how to see that it is one.
func TestClaims_Complete(t *testing.T) {
	for _, a := range All {
		if c, ok := claims[a.Name]; !ok || (c.tcp == nil) == (c.udp == nil) || c.steps == 0 {
			t.Errorf("%s: nobody looks whether it does what it says", a.Name)
		}
	}
	for name := range claims {
		if _, ok := Find(name); !ok {
			t.Errorf("claims has %q, which is no attack", name)
		}
	}
}

// Each attack does what it says, tells how far it got, and ends in time.
func TestClaims(t *testing.T) {
	alone(t)
	for i := range All {
		c, ok := claims[All[i].Name]
		if !ok {
			continue // TestClaims_Complete says so
		}
		t.Run(All[i].Name, func(t *testing.T) {
			e := c.run(t, &All[i], newSight(c.steps))
			if e.wrong != nil || e.steps < e.enough {
				t.Errorf("after %d of %d steps: %v", e.steps, e.enough, cmp.Or(e.wrong, errors.New("no more came")))
			}
			c.progress(t, e)
			if c.more != nil {
				c.more(t, e)
			}
		})
	}
}

// receive begins to receive.
func (c *claim) receive(t *testing.T, s *sight) (stop func()) {
	t.Helper()
	if c.udp != nil {
		return s.resolve(t, c.at, c.udp)
	}
	return s.listen(t, c.at, c.tcp)
}

// run attacks until enough was seen.
func (c *claim) run(t *testing.T, a *Attack, s *sight) *ended {
	t.Helper()
	return s.watch(t, limit, c.receive(t, s), func(ctx context.Context) Progress {
		p, err := a.Run(ctx, target(t), 2)
		if err != nil {
			s.fail("run: %w", err)
		}
		return p
	})
}

// prompt is how soon an attack must be over that is told to end.
const prompt = time.Second

// watch attacks until enough was seen, or for a time, and then stops to receive.
func (s *sight) watch(t *testing.T, most time.Duration, stop func(), attack func(context.Context) Progress) *ended {
	t.Helper()
	before := sentDatagrams(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	results := make(chan Progress, 1)
	go func() { results <- attack(ctx) }() // received below
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-s.seen:
	case <-timer.C:
	}
	s.end()
	cancel()
	told := time.Now()
	p := <-results
	if took := time.Since(told); took > prompt {
		t.Errorf("it went on for %s, want less than %s", took, prompt)
	}
	sent := sentDatagrams(t) - before
	close(s.gone)
	stop()
	return &ended{s, p, sent, told}
}

// progress compares what an attack tells with what was seen of it.
func (c *claim) progress(t *testing.T, e *ended) {
	t.Helper()
	// The last connection, and what was sent on it, may have been given up.
	if e.Connections > int64(e.accepted) || e.Connections < int64(e.accepted)-1 {
		t.Errorf("it tells of %d connections, %d were seen", e.Connections, e.accepted)
	}
	if c.udp != nil {
		if e.Units != int64(e.datagrams) {
			t.Errorf("it tells of %d queries, %d were sent", e.Units, e.datagrams)
		}
		return
	}
	tooMany, tooFew := 0, 1
	if c.size > 0 {
		tooMany, tooFew = mostLost/c.size, 64
	}
	if over := int(e.Units) - e.units; over > tooMany || -over > tooFew {
		t.Errorf("it tells of %d units, %d were seen, want between %d less and %d more", e.Units, e.units, tooFew, tooMany)
	}
}

// held is an attack that keeps so many connections, and says something on one of
// them in a millisecond. What it says may be seen late.
func held(many int) func(*testing.T, *ended) {
	return func(t *testing.T, e *ended) {
		if e.most < many {
			t.Errorf("%d were open at once, want %d", e.most, many)
		}
		const late = 100 * time.Millisecond
		after := e.told.Sub(e.grown)
		if turns, most := e.steps-e.accepted, 2*int((late+after)/time.Millisecond); turns > most {
			t.Errorf("%d times was something said on %d connections in %s, want %d times at most", turns, many, after, most)
		}
	}
}

// inTurn is an attack of three requests on a connection that stays and one on
// another.
func inTurn(t *testing.T, e *ended) {
	if want := e.units / 4; e.leaving < want-1 || e.leaving > want+1 {
		t.Errorf("%d of %d requests were on connections of their own, want a quarter", e.leaving, e.units)
	}
	if others := e.accepted - e.leaving; others > 2 {
		t.Errorf("%d connections were for the others, want one", others)
	}
}
