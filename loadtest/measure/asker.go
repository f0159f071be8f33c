package measure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/miekg/dns"
)

const (
	// askGrace is how long answers are waited for after the last question.
	askGrace = time.Second
	// askTick is how often questions are sent, as many as are due but not more than
	// askBurst: who is behind must not fill the queues of others at once.
	askTick  = time.Millisecond
	askBurst = 32
)

// asker asks for the address of a name by the clock, over UDP, from one socket.
type asker struct {
	at   netip.AddrPort // name server
	name string         // with a %d, a number takes its place: each name is new
	want netip.Addr
	rate int // a second

	mu      sync.Mutex
	pending map[uint16]time.Time // by id
	said    said
	times   *hdrhistogram.Histogram // µs
}

// said is what an asker has to say at the end.
type said struct {
	Asked, Right, Wrong, Lost int
	LastWrong                 string `json:",omitempty"`
	// Times has those of right answers.
	Times string
}

// run asks for a time and prints what came of it.
func (a *asker) run(ctx context.Context, length time.Duration, out io.Writer) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", a.at.String())
	if err != nil {
		return err
	}
	a.pending, a.times = map[uint16]time.Time{}, newHistogram()
	var reading sync.WaitGroup
	reading.Go(func() { a.read(conn) })
	err = a.ask(ctx, conn, length)
	grace := time.NewTimer(askGrace)
	defer grace.Stop()
	select {
	case <-grace.C:
	case <-ctx.Done():
	}
	conn.Close()
	reading.Wait()
	if err != nil {
		return err
	}
	a.said.Lost += len(a.pending)
	times, err := a.times.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return err
	}
	a.said.Times = string(times)
	return json.NewEncoder(out).Encode(a.said)
}

// ask sends the questions.
func (a *asker) ask(ctx context.Context, conn net.Conn, length time.Duration) error {
	tick := time.NewTicker(askTick)
	defer tick.Stop()
	start, all := time.Now(), int(length.Seconds()*float64(a.rate))
	for n := 0; n < all; {
		due := min(all, int(time.Since(start).Seconds()*float64(a.rate)))
		for most := n + askBurst; n < min(due, most); n++ {
			packed, err := a.question(n)
			if err != nil {
				return err
			}
			a.sent(uint16(n))
			if _, err := conn.Write(packed); errors.Is(err, net.ErrClosed) {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

func (a *asker) question(n int) ([]byte, error) {
	name := a.name
	if strings.Contains(name, "%d") {
		name = fmt.Sprintf(name, n)
	}
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	m.Id = uint16(n)
	return m.Pack()
}

// sent notes a question. An older one with its id is lost.
func (a *asker) sent(id uint16) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.said.Asked++
	if _, ok := a.pending[id]; ok {
		a.said.Lost++
	}
	a.pending[id] = time.Now()
}

// read takes answers until the socket is closed.
func (a *asker) read(conn net.Conn) {
	buffer := make([]byte, dns.MaxMsgSize)
	for {
		n, err := conn.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // nobody listens, which is a question lost
		}
		now := time.Now()
		var m dns.Msg
		if m.Unpack(buffer[:n]) != nil {
			m.Rcode = dns.RcodeFormatError
		}
		a.answered(&m, now)
	}
}

func (a *asker) answered(m *dns.Msg, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked, ok := a.pending[m.Id]
	if !ok {
		return // twice
	}
	delete(a.pending, m.Id)
	for _, record := range m.Answer {
		if address, ok := record.(*dns.A); ok && address.A.Equal(a.want.AsSlice()) {
			a.said.Right++
			_ = a.times.RecordValue(max(1, min(slowest, now.Sub(asked)).Microseconds())) // in its range
			return
		}
	}
	a.said.Wrong++
	a.said.LastWrong = fmt.Sprintf("%s with %d records", dns.RcodeToString[m.Rcode], len(m.Answer))
}
