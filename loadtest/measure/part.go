package measure

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"ztunnel/loadtest/app"
)

// partArgument is the first argument of a process that plays a part in a
// measure: [Updates] starts the program that called it again, in the namespace of
// a pod, so that neither the garbage collector of the control plane nor its
// goroutines delay what is measured.
const partArgument = "measure-part"

const (
	echoPart, pingPart = "echo", "ping"
	// settleTime begins a turn without being measured, while updates begin or end.
	settleTime = 200 * time.Millisecond
	// slowest is the longest round trip that a histogram can hold.
	slowest = 10 * time.Second
)

// Every program that can measure must be able to play a part, tests too. Here
// none of them can forget to.
func init() {
	if len(os.Args) < 2 || os.Args[1] != partArgument {
		return
	}
	if err := play(context.Background(), os.Args[2:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stdout, "error: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// play plays the part that the arguments name, until it is over or ctx ends.
func play(ctx context.Context, args []string, out io.Writer) error {
	p := pinger{out: out}
	var to string
	flags := flag.NewFlagSet(partArgument, flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&to, "at", "", "where to listen or ping")
	flags.IntVar(&p.turns, "turns", 1, "how often to measure")
	flags.DurationVar(&p.length, "length", time.Second, "how long a turn is measured")
	if len(args) == 0 {
		return errors.New("no part is named")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	at, err := netip.ParseAddrPort(to)
	if err != nil {
		return err
	}
	switch args[0] {
	case echoPart:
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
		if err != nil {
			return err
		}
		return echo(ctx, ln)
	case pingPart:
		return p.run(ctx, at)
	}
	return fmt.Errorf("there is no part %q", args[0])
}

// echo answers connections, one after another, until ctx ends. It closes ln.
func echo(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) // its client sees if anything is missing
		c.Close()
		stop()
	}
}

// pinger measures round trips on one connection, one after another without a
// pause.
type pinger struct {
	turns  int
	length time.Duration
	out    io.Writer
}

// run prints a line when it begins, and one with a histogram after each turn.
func (p *pinger) run(ctx context.Context, to netip.AddrPort) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	s := &app.Session{TCPConn: c.(*net.TCPConn)}
	if _, err := p.turn(s, time.Second); err != nil { // to warm up
		return err
	}
	fmt.Fprintln(p.out, beginLine)
	for range p.turns {
		if _, err := p.turn(s, settleTime); err != nil {
			return err
		}
		h, err := p.turn(s, p.length)
		if err != nil {
			return err
		}
		line, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
		if err != nil {
			return err
		}
		fmt.Fprintf(p.out, "%s%s\n", turnLine, line)
	}
	return nil
}

// What begins the lines of a pinger. The rest of turnLine is a histogram.
const (
	beginLine = "begin"
	turnLine  = "turn "
)

// turn measures for a time, in µs.
func (p *pinger) turn(s *app.Session, length time.Duration) (*hdrhistogram.Histogram, error) {
	h := newHistogram()
	for start := time.Now(); time.Since(start) < length; {
		began := time.Now()
		if err := s.Ping(); err != nil {
			return nil, fmt.Errorf("after %d round trips: %w", s.Pings, err)
		}
		if err := h.RecordValue(max(1, time.Since(began).Microseconds())); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, slowest.Microseconds(), 3)
}
