package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ztunnel/proxy/needs"
)

// answers reads what dig prints: of each answer its code, the flags of its
// header, size and flags of EDNS, the transport, and then the records, or how
// many there are if there are many.
func answers(lines []string) (all []string) {
	const many = 5
	var head, records []string
	for _, line := range lines {
		switch fields := strings.Fields(strings.NewReplacer(",", "", ";", " ", "(", " ", ")", " ").Replace(line)); {
		case strings.HasPrefix(line, ";; ->>HEADER"): // ->>HEADER<<- opcode: QUERY status: NOERROR id: 1
			head, records = []string{fields[4]}, nil
		case strings.HasPrefix(line, ";; flags:"): // flags: qr rd QUERY: 1 ...
			head = append(head, fields[1:slices.Index(fields, "QUERY:")]...)
		case strings.HasPrefix(line, "; EDNS:"): // EDNS: version: 0 flags: do udp: 1232
			head = append(head, fmt.Sprint("EDNS", fields[4:len(fields)-2], fields[len(fields)-1]))
		case strings.HasPrefix(line, ";; SERVER:"): // SERVER: 10.96.0.53#53 10.96.0.53 UDP
			head = append(head, fields[3])
			if len(records) > many {
				records = []string{fmt.Sprint(len(records), " records")}
			}
			all = append(all, strings.Join(append([]string{strings.Join(head, " ")}, records...), "; "))
		case line != "" && !strings.HasPrefix(line, ";"): // NAME TTL CLASS TYPE VALUE
			records = append(records, strings.Join(append(fields[:1:1], fields[3:]...), " "))
		}
	}
	return all
}

// What dig asks about most.
const (
	crowdHost = "crowd.stock.svc.cluster.local"

	isKeeper  = "; " + keeperHost + ". A 10.96.0.10"
	isOutside = "; www.example.org. A 192.0.2.7"
)

// digs are what dig is told to ask, and what it prints then, see [answers].
var digs = []struct {
	asked string
	want  []string
}{
	{keeperHost, []string{"NOERROR qr aa rd ra EDNS[]1232 UDP" + isKeeper}},
	{"KEEPER.Stock.svc.cluster.local", []string{"NOERROR qr aa rd ra EDNS[]1232 UDP" + isKeeper}},
	{keeperHost + " AAAA", []string{"NOERROR qr aa rd ra EDNS[]1232 UDP; " + keeperHost + ". AAAA fd00:96::10"}},
	{"cart.shop.svc.cluster.local AAAA", []string{"NOERROR qr aa rd ra EDNS[]1232 UDP"}}, // a service of IPv4
	{"+search cart", []string{"NOERROR qr aa rd ra EDNS[]1232 UDP; cart.shop.svc.cluster.local. A 10.96.0.20"}},
	{"+search keeper.stock", []string{ // found with the first of the search domains
		"NOERROR qr aa rd ra EDNS[]1232 UDP; keeper.stock.shop.svc.cluster.local. CNAME keeper.stock.; keeper.stock. A 10.96.0.10",
	}},
	{"+search keeper", []string{"NXDOMAIN qr rd ra EDNS[]1232 UDP"}},
	{"any.wild.example.org", []string{"NOERROR qr aa rd ra EDNS[]1232 UDP; any.wild.example.org. A 10.96.0.30"}},
	{"www.example.org", []string{"NOERROR qr rd ra EDNS[]1232 UDP" + isOutside}},
	{"www.example.org AAAA", []string{"NOERROR qr rd ra EDNS[]1232 UDP; www.example.org. AAAA 2001:db8::7"}},
	{"www.example.org TXT", []string{`NOERROR qr rd ra EDNS[]1232 UDP; www.example.org. TXT "outside"`}},
	{"www.example.org HTTPS", []string{"NOERROR qr rd ra EDNS[]1232 UDP"}},
	{"alias.example.org", []string{"NOERROR qr rd ra EDNS[]1232 UDP; alias.example.org. CNAME www.example.org." + isOutside}},
	{"missing.example.org", []string{"NXDOMAIN qr rd ra EDNS[]1232 UDP"}},
	{"-x 192.0.2.7", []string{"NOERROR qr rd ra EDNS[]1232 UDP; 7.2.0.192.in-addr.arpa. PTR www.example.org."}},
	{"-x 10.96.0.10", []string{"NXDOMAIN qr rd ra EDNS[]1232 UDP"}}, // of services there are names only
	{"+tcp " + keeperHost, []string{"NOERROR qr aa rd ra EDNS[]1232 TCP" + isKeeper}},
	{"+tcp www.example.org", []string{"NOERROR qr rd ra EDNS[]1232 TCP" + isOutside}},
	{"+tcp +keepopen " + keeperHost + " missing.example.org www.example.org", []string{
		"NOERROR qr aa rd ra EDNS[]1232 TCP" + isKeeper, "NXDOMAIN qr rd ra EDNS[]1232 TCP", "NOERROR qr rd ra EDNS[]1232 TCP" + isOutside,
	}},
	{"@" + nameserver6 + " " + keeperHost, []string{"NOERROR qr aa rd ra EDNS[]1232 UDP" + isKeeper}},
	{"@" + nameserver6 + " +tcp www.example.org", []string{"NOERROR qr rd ra EDNS[]1232 TCP" + isOutside}},
	// What does not fit.
	{"+bufsize=512 +ignore " + crowdHost, []string{"NOERROR qr aa tc rd ra EDNS[]512 UDP; 28 records"}},
	{"+bufsize=512 " + crowdHost, []string{"NOERROR qr aa rd ra EDNS[]512 TCP; 60 records"}}, // dig asks again
	{crowdHost, []string{"NOERROR qr aa rd ra EDNS[]1232 UDP; 60 records"}},
	{"+noedns +ignore " + crowdHost, []string{"NOERROR qr aa rd ra UDP; 60 records"}}, // as the reference does it
	{"+bufsize=512 +ignore crowd.example.org", []string{"NOERROR qr tc rd ra EDNS[]512 UDP; 29 records"}},
	{"+bufsize=512 crowd.example.org", []string{"NOERROR qr rd ra EDNS[]512 TCP; 60 records"}},
	// Flags, options and kinds of questions.
	{"+noedns " + keeperHost, []string{"NOERROR qr aa rd ra UDP" + isKeeper}},
	{"+dnssec " + keeperHost, []string{"NOERROR qr aa rd ra EDNS[do]1232 UDP" + isKeeper}},
	{"+dnssec www.example.org", []string{"NOERROR qr rd ra EDNS[do]1232 UDP" + isOutside}},
	{"+subnet=192.0.2.0/24 +nsid +padding=128 +ednsopt=65001:aa " + keeperHost, []string{"NOERROR qr aa rd ra EDNS[]1232 UDP" + isKeeper}},
	{"+tcp +keepalive www.example.org", []string{"NOERROR qr rd ra EDNS[]1232 TCP" + isOutside}},
	{"+norecurse +cdflag +noadflag www.example.org", []string{"NOERROR qr ra cd EDNS[]1232 UDP" + isOutside}},
	{"+header-only example.org", []string{"SERVFAIL qr rd UDP"}},
	{"+opcode=status example.org", []string{"NOTIMP qr rd UDP"}},
}

// dig understands what it gets, in all the ways in which it can ask.
func (r *resolvers) dig(t *testing.T) {
	script := filepath.Join(r.dir, "dig-in-pod")
	r.resolvConf(t, script, "nameserver "+nameserver+"\n"+podSearch, needs.Dig(t), "-r")
	for _, test := range digs {
		lines, status := r.run(t, script, append([]string{"+time=5", "+tries=1"}, strings.Fields(test.asked)...)...)
		if got := answers(lines); status != 0 || !slices.Equal(got, test.want) {
			t.Errorf("dig %s: status %d, %q, want %q; it printed\n%s", test.asked, status, got, test.want, strings.Join(lines, "\n"))
		}
	}
}

// Updates go to the server that has the zone.
func (r *resolvers) nsupdate(t *testing.T) {
	script := filepath.Join(r.dir, "nsupdate-in-pod")
	r.resolvConf(t, script, "nameserver "+nameserver+"\n", needs.Nsupdate(t), "-t", "5")
	commands := filepath.Join(r.dir, "commands")
	content := "server " + nameserver + "\nzone example.org\nupdate add new.example.org 60 A 192.0.2.9\nsend\n"
	if err := os.WriteFile(commands, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, args := range [][]string{{commands}, {"-v", commands}} { // UDP, TCP
		lines, status := r.run(t, script, args...)
		if got := int(r.outside.updates.Load()); status != 0 || len(lines) > 0 || got != i+1 {
			t.Errorf("nsupdate %q: status %d, %q; then %d updates have come, want %d", args, status, lines, got, i+1)
		}
	}
}
