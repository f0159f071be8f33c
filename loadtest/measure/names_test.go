package measure

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/miekg/dns"
)

// Both parts together, without a mesh.
func TestAsker(t *testing.T) {
	conn, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := nameserver(ctx, at); err != nil {
			t.Errorf("nameserver = %v, want nil", err)
		}
	})
	defer serving.Wait()
	defer cancel()
	for want, right := range map[netip.Addr]bool{outsideAddr: true, netip.MustParseAddr("192.0.2.8"): false} {
		var out strings.Builder
		a := &asker{at: at, name: "host-%d.example.org.", want: want, rate: 1000}
		if err := a.run(t.Context(), 100*time.Millisecond, &out); err != nil {
			t.Fatal(err)
		}
		var got said
		if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
			t.Fatal(err)
		}
		if got.Asked < 10 || got.Right+got.Wrong+got.Lost != got.Asked || got.Right > 0 != right || got.Wrong > 0 == right {
			t.Errorf("with %s for the right answer: %+v", want, got)
		}
		if h, err := hdrhistogram.Decode([]byte(got.Times)); err != nil || h.TotalCount() != int64(got.Right) {
			t.Errorf("its times: %v, %v, want %d of them", h, err, got.Right)
		}
	}
}

func TestAsker_Accounts(t *testing.T) {
	a := &asker{want: outsideAddr, pending: map[uint16]time.Time{}, times: newHistogram()}
	a.sent(1)
	a.sent(1) // the first is lost
	m := new(dns.Msg)
	m.Id, m.Rcode = 1, dns.RcodeNameError
	a.answered(m, time.Now())
	a.answered(m, time.Now()) // nobody asked
	if a.said.Asked != 2 || a.said.Lost != 1 || a.said.Wrong != 1 || a.said.LastWrong != "NXDOMAIN with 0 records" {
		t.Errorf("%+v, want 2 asked, 1 lost, 1 wrong with NXDOMAIN", a.said)
	}
}
