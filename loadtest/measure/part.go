package measure

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"ztunnel/loadtest/app"
)

// PartArgument is the first argument of a process that plays a part in a
// measure: the program that calls [Updates] starts itself again, in the
// namespace of a pod, so that neither the control plane's garbage collector nor
// its scheduler delays what is measured. Such a process must call [Part].
const PartArgument = "measure-part"

// Exit status of a part.
const (
	partDone = iota
	partFailed
)

const (
	echoPart, pingPart = "echo", "ping"
	// settleTime begins a turn without being measured, while updates begin or end.
	settleTime = 200 * time.Millisecond
	// slowest is the longest round trip that a histogram can hold.
	slowest = 10 * time.Second
)

// Part plays the part that the arguments after [PartArgument] name, and returns
// the exit status. The end of ctx ends it.
func Part(ctx context.Context, args []string, out io.Writer) int {
	if err := play(ctx, args, out); err != nil {
		fmt.Fprintf(out, "error: %v\n", err)
		return partFailed
	}
	return partDone
}

func play(ctx context.Context, args []string, out io.Writer) error {
	p := pinger{out: out}
	var to string
	flags := flag.NewFlagSet(PartArgument, flag.ContinueOnError)
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
		return echo(ctx, at)
	case pingPart:
		return p.run(ctx, at)
	}
	return fmt.Errorf("there is no part %q", args[0])
}

// echo answers connections, one after another, until ctx ends.
func echo(ctx context.Context, at netip.AddrPort) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
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
