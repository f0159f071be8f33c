package measure

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/attack"
)

// partArgument is the first argument of a process that plays a part in a
// measure: [Updates] starts the program that called it again, in the namespace of
// a pod, so that neither the garbage collector of the control plane nor its
// goroutines delay what is measured.
const partArgument = "measure-part"

const (
	servePart   = "serve"   // answers connections
	pingPart    = "ping"    // makes round trips, and measures them in turns
	witnessPart = "witness" // makes round trips and connections, and tells of them
	attackPart  = "attack"  // attacks
	namesPart   = "names"   // answers questions for names
	askPart     = "ask"     // asks for a name
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
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := play(ctx, os.Args[2:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stdout, "error: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// play plays the part that the arguments name, until it is over or ctx ends.
func play(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("no part is named")
	}
	o := partOptions{out: out}
	if err := o.parse(args[1:]); err != nil {
		return err
	}
	part, ok := parts[args[0]]
	if !ok {
		return fmt.Errorf("there is no part %q", args[0])
	}
	return part(ctx, &o)
}

// parts are what a process can play.
var parts = map[string]func(context.Context, *partOptions) error{
	servePart:   func(ctx context.Context, o *partOptions) error { return listenAndServe(ctx, o.at) },
	namesPart:   func(ctx context.Context, o *partOptions) error { return nameserver(ctx, o.at) },
	attackPart:  playAttack,
	witnessPart: func(ctx context.Context, o *partOptions) error { (&witness{to: o.at, out: o.out}).run(ctx); return nil },
	pingPart: func(ctx context.Context, o *partOptions) error {
		return (&pinger{turns: o.turns, length: o.length, out: o.out}).run(ctx, o.at)
	},
	askPart: func(ctx context.Context, o *partOptions) error {
		return (&asker{at: o.at, name: o.name, want: o.want, rate: o.rate}).run(ctx, o.length, o.out)
	},
}

// partOptions are the arguments of all parts. Each needs some of them.
type partOptions struct {
	out    io.Writer
	at     netip.AddrPort // where to listen, or whom to talk to
	turns  int            // how often to measure
	length time.Duration  // of a turn, or of all
	name   string         // of an attack, or what to ask for
	want   netip.Addr     // the address of the name
	rate   int            // questions a second
	target string         // file with whom to attack
	share  float64        // of a processor
}

func (o *partOptions) parse(args []string) error {
	flags := flag.NewFlagSet(partArgument, flag.ContinueOnError)
	flags.SetOutput(o.out)
	flags.TextVar(&o.at, "at", netip.AddrPort{}, "where to listen, or whom to talk to")
	flags.IntVar(&o.turns, "turns", 1, "how often to measure")
	flags.DurationVar(&o.length, "length", time.Second, "how long a turn is, or all")
	flags.StringVar(&o.name, "name", "", "of an attack, or what to ask for")
	flags.TextVar(&o.want, "want", netip.Addr{}, "the address of the name")
	flags.IntVar(&o.rate, "rate", 1000, "questions a second")
	flags.StringVar(&o.target, "target", "", "file with whom to attack")
	flags.Float64Var(&o.share, "share", attackShare, "of a processor for an attack")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if !o.at.IsValid() && o.target == "" {
		return errors.New("nobody to talk to")
	}
	return nil
}

// listenAndServe answers connections at an address.
func listenAndServe(ctx context.Context, at netip.AddrPort) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	return serve(ctx, ln)
}

// serve answers any number of connections until ctx ends. It closes ln.
func serve(ctx context.Context, ln net.Listener) error {
	var answering sync.WaitGroup
	defer answering.Wait()
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
		answering.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) // its client sees if anything is missing
		})
	}
}

// playAttack attacks for a time, and prints how far it got.
func playAttack(ctx context.Context, o *partOptions) error {
	one, ok := attack.Find(o.name)
	if !ok || o.share <= 0 {
		return fmt.Errorf("there is no attack %q with %g of a processor", o.name, o.share)
	}
	content, err := os.ReadFile(o.target)
	if err != nil {
		return err
	}
	var to attack.Target
	if err := json.Unmarshal(content, &to); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, o.length)
	defer cancel()
	progress, err := one.Run(limited, to, o.share)
	if err != nil {
		return err
	}
	return json.NewEncoder(o.out).Encode(progress)
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
