package attack

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"

	"github.com/miekg/dns"
)

// plainAttacks come at the ports for redirected plain text.
var plainAttacks = []Attack{
	{
		Name: "plaintext garbage", Unit: "connections", run: plainGarbage,
		Why: "From outside of the mesh: each is decided on by the policies and recorded.",
	},
	{
		Name: "outbound loop", Unit: "connections", From: Inside, run: outboundLoop,
		Why: "A connection to the outbound port itself would lead back to it without end.",
	},
	{
		Name: "outbound nowhere", Unit: "connections", From: Inside, run: outboundNowhere,
		Why: "Each connection to an address that nobody has waits for a connection that does not come about.",
	},
}

// serviceAttacks come at what is served beside the data path.
var serviceAttacks = []Attack{
	{
		Name: "dns flood, names of the mesh", Unit: "queries", From: Inside, run: dnsMesh,
		Why: "One pod's queries may take the time of its neighbours' connections.",
	},
	{
		Name: "dns flood, unknown names", Unit: "queries", From: Inside, run: dnsUnknown,
		Why: "Each new name is forwarded, and waits for a server that may not answer.",
	},
	{
		Name: "dns flood, garbage", Unit: "queries", From: Inside, run: dnsGarbage,
		Why: "What is no query must cost little.",
	},
	{
		Name: "http flood, config dump", Unit: "requests", From: Beside, run: dumpFlood,
		Why: "A dump is the dearest thing that the admin server has.",
	},
	{
		Name: "http flood, readiness", Unit: "requests", From: Outside, run: readinessFlood,
		Why: "The port is open to all, for probes.",
	},
}

// plainPort is one that nobody listens at. The redirection takes all ports.
const plainPort = 4444

func plainGarbage(a *attacker) {
	garbage := random(512)
	for a.next() {
		a.throw(func() *net.TCPConn { return a.dial(netip.AddrPortFrom(a.Pod, plainPort)) }, garbage)
	}
}

func outboundLoop(a *attacker) {
	garbage := random(64)
	for a.next() {
		a.throw(func() *net.TCPConn { return a.dial(netip.AddrPortFrom(loopback, outboundPort)) }, garbage)
	}
}

func outboundNowhere(a *attacker) {
	nowhere := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 80)
	begin := func() *net.TCPConn {
		c := a.dial(nowhere)
		if c != nil {
			a.done++
		}
		return c
	}
	a.hold(slowConnections, begin, func(c *net.TCPConn, _ int) error {
		_, err := c.Write([]byte("?"))
		return err
	})
}

// dnsQueries sends queries and does not wait for their answers.
func (a *attacker) dnsQueries(query func(n int) []byte) {
	var d net.Dialer
	c, err := d.DialContext(a.ctx, "udp", netip.AddrPortFrom(loopback, dnsPort).String())
	if err != nil {
		return
	}
	ended := make(chan struct{})
	go func() { // ends with the connection
		defer close(ended)
		_, _ = io.Copy(io.Discard, c)
	}()
	for n := 0; a.next(); n++ {
		if _, err := c.Write(query(n)); err == nil { // full means that the attack is at its limit
			a.done++
		}
	}
	_ = c.Close()
	<-ended
}

// question is a query for the address of a name, packed.
func question(name string, n int) []byte {
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	m.Id = uint16(n)
	packed, err := m.Pack()
	if err != nil {
		panic(fmt.Sprintf("pack a query for %q: %v", name, err)) // names here are right
	}
	return packed
}

func dnsMesh(a *attacker) {
	packed := question("echo.servers.svc.cluster.local.", 1)
	a.dnsQueries(func(int) []byte { return packed })
}

func dnsUnknown(a *attacker) {
	run := rand.Uint32() // the names of one before may be known
	a.dnsQueries(func(n int) []byte { return question(fmt.Sprintf("host-%d-%d.example.com.", run, n), n) })
}

func dnsGarbage(a *attacker) {
	garbage := random(64)
	garbage[2] &^= 0x80 // a query, not an answer
	a.dnsQueries(func(int) []byte { return garbage })
}

func dumpFlood(a *attacker) { a.requests(netip.AddrPortFrom(loopback, adminPort), "/config_dump") }

func readinessFlood(a *attacker) {
	a.requests(netip.AddrPortFrom(a.Ztunnel, readinessPort), "/healthz/ready")
}

// requests gets something again and again, on a connection that stays and on
// ones that do not in turn.
func (a *attacker) requests(at netip.AddrPort, path string) {
	stays := &http.Transport{DialContext: a.connect}
	goes := &http.Transport{DialContext: a.connect, DisableKeepAlives: true}
	defer stays.CloseIdleConnections()
	for n := 0; a.next(); n++ {
		client := &http.Client{Transport: stays, Timeout: patience}
		if n%4 == 3 {
			client.Transport = goes
		}
		request, err := http.NewRequestWithContext(a.ctx, http.MethodGet, "http://"+at.String()+path, nil)
		if err != nil {
			return // the address is none
		}
		response, err := client.Do(request)
		if err != nil {
			a.rest()
			continue
		}
		if _, err := io.Copy(io.Discard, response.Body); err == nil {
			a.done++
		}
		_ = response.Body.Close()
	}
}
