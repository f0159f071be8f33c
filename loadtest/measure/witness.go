package measure

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"ztunnel/loadtest/app"
)

const (
	// pingPause is between two round trips of the witness, connectEvery between
	// the begins of two new connections, which go by the clock.
	pingPause, connectEvery = 2 * time.Millisecond, 20 * time.Millisecond
	// slotTime is how often the witness tells what it saw.
	slotTime = 100 * time.Millisecond
	// connectLimit is how long a new connection may take.
	connectLimit = 5 * time.Second
	// maxConnecting bounds the connections that the witness begins at a time; one
	// that cannot be begun has failed.
	maxConnecting = 256
)

// slot is what a witness saw in a time, µs. It is a line of its output.
type slot struct {
	Pings    []int64 `json:"p,omitempty"`
	Connects []int64 `json:"c,omitempty"`
	Failed   int     `json:"f,omitempty"`
	LastErr  string  `json:"e,omitempty"`
}

// add adds what another slot has.
func (s *slot) add(other slot) {
	s.Pings = append(s.Pings, other.Pings...)
	s.Connects = append(s.Connects, other.Connects...)
	s.Failed += other.Failed
	if other.LastErr != "" {
		s.LastErr = other.LastErr
	}
}

// witness is a client that behaves: it has a connection on which it makes round
// trips, and makes new connections with one round trip each. It begins again when
// the first one ends.
type witness struct {
	to  netip.AddrPort
	out io.Writer

	mu  sync.Mutex
	now slot
}

// run tells what it sees until ctx ends.
func (w *witness) run(ctx context.Context) {
	var working sync.WaitGroup
	defer working.Wait()
	working.Go(func() { w.ping(ctx) })
	working.Go(func() { w.connect(ctx) })
	tick := time.NewTicker(slotTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.mu.Lock()
		line, _ := json.Marshal(w.now) // numbers and a string
		w.now = slot{}
		w.mu.Unlock()
		if ctx.Err() != nil { // what failed may have failed for that
			return
		}
		fmt.Fprintf(w.out, "%s\n", line)
	}
}

func (w *witness) saw(what *[]int64, took time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.now.Failed++
		w.now.LastErr = err.Error()
		return
	}
	*what = append(*what, max(1, took.Microseconds()))
}

// sawPing counts a round trip, and those that would have begun while it lasted:
// they would have waited for its end. Without them a stall that all the others
// feel would be one slow round trip among many.
func (w *witness) sawPing(took time.Duration, err error) {
	w.saw(&w.now.Pings, took, err)
	for took -= pingPause; err == nil && took > 0; took -= pingPause {
		w.saw(&w.now.Pings, took, nil)
	}
}

// open connects and makes a round trip.
func (w *witness) open(ctx context.Context) (*app.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.to.String())
	if err != nil {
		return nil, err
	}
	s := &app.Session{TCPConn: c.(*net.TCPConn)}
	if err := s.Ping(); err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

func (w *witness) ping(ctx context.Context) {
	tick := time.NewTicker(pingPause)
	defer tick.Stop()
	for ctx.Err() == nil {
		s, err := w.open(ctx)
		if err != nil {
			w.saw(nil, 0, err)
			<-tick.C
			continue
		}
		for err == nil && ctx.Err() == nil {
			start := time.Now()
			err = s.Ping()
			w.sawPing(time.Since(start), err)
			<-tick.C
		}
		s.Close()
	}
}

func (w *witness) connect(ctx context.Context) {
	var connecting sync.WaitGroup
	defer connecting.Wait()
	places := make(chan struct{}, maxConnecting)
	tick := time.NewTicker(connectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case places <- struct{}{}:
		default:
			w.saw(nil, 0, fmt.Errorf("%d connections are being opened", maxConnecting))
			continue
		}
		connecting.Go(func() {
			start := time.Now()
			s, err := w.open(ctx)
			w.saw(&w.now.Connects, time.Since(start), err)
			if err == nil {
				s.Close()
			}
			<-places
		})
	}
}
