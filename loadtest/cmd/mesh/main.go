// Command mesh runs a mesh of two nodes on one machine, in shared mode, with a
// control plane of its own, and shows what a ztunnel does in it.
//
//	mesh [-bin ZTUNNEL] [-keep]           prove what it does, end with a table
//	mesh [-bin ZTUNNEL] -up               only build it, for exploring
//	mesh [-bin ZTUNNEL] -measure updates  latency while xDS changes 1,000 times a second
//	mesh [-bin ZTUNNEL] -measure soak     hours of pods that come and go
//	mesh [-bin ZTUNNEL] -measure upgrades what is lost while ztunnels are replaced
//	mesh [-bin ZTUNNEL] -measure attacks  what those who behave feel of attacks
//	mesh [-bin ZTUNNEL] -measure names    what questions for names cost
//
// With -against, the last three measure another binary too, in -pairs turns, and
// print how the two compare; with -json a file gets a line for each turn.
//
// Without -bin it builds the ztunnel of this repository and holds it to all that
// is claimed for it; with -bin, any drop-in binary may serve the mesh, and what
// only this repository's claims is left out if the binary's metrics are open to
// anybody.
//
// It needs root, or a kernel that lets users make user namespaces, and touches
// nothing of the host's network. The exit status is 1 if anything failed.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/measure"
	"ztunnel/loadtest/mesh"
	"ztunnel/loadtest/show"
)

// options are what the command line says.
type options struct {
	binary  string // empty: build it
	own     bool   // it is of this repository
	keep    bool
	up      bool
	measure string
	length  time.Duration // 0: that of the measure
	rounds  int
	rate    int
	only    string
	against string // empty: nothing
	pairs   int
	json    string // path; empty: none
}

var measures = []string{"updates", "soak", "upgrades", "attacks", "names"}

func main() {
	o := options{}
	flag.StringVar(&o.binary, "bin", "", "`path` of a ztunnel; that of this repository is built if empty")
	flag.BoolVar(&o.own, "own", false, "hold the binary of -bin to all that this repository claims")
	flag.BoolVar(&o.keep, "keep", false, "stay up after the table, until Ctrl-C")
	flag.BoolVar(&o.up, "up", false, "prove nothing, stay up until Ctrl-C")
	flag.StringVar(&o.measure, "measure", "", "measure `what` instead: "+strings.Join(measures, ", "))
	flag.DurationVar(&o.length, "for", 0, "how long to measure (updates: 1m, soak: 1h, each turn of an attack: 2s, each kind of name: 3s)")
	flag.IntVar(&o.rounds, "rounds", 200, "how many upgrades to make")
	flag.IntVar(&o.rate, "rate", 0, "how many connections (upgrades: 200) or questions (names: 2000) a second to make")
	flag.StringVar(&o.only, "only", "", "only attacks, or kinds of name, whose names contain `text`")
	flag.StringVar(&o.against, "against", "", "`path` of a second ztunnel to measure in turns with the first")
	flag.IntVar(&o.pairs, "pairs", 1, "how many turns each binary has")
	flag.StringVar(&o.json, "json", "", "`path` of a file that results are added to, as lines of JSON")
	flag.Parse()
	status, err := o.run()
	if err != nil {
		fmt.Fprintf(os.Stderr, "mesh: %v\n", err)
	}
	os.Exit(status)
}

// run returns the exit status, which is not 0 with an error.
func (o *options) run() (int, error) {
	if flag.NArg() > 0 || o.measure != "" && !slices.Contains(measures, o.measure) || o.length < 0 || o.rounds < 1 || o.rate < 0 || o.pairs < 1 {
		flag.Usage()
		return 2, nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "mesh-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // nobody can do anything about it
	if o.binary == "" {
		o.own, o.binary = true, filepath.Join(dir, "ztunnel")
		fmt.Println("  build ztunnel")
		if err := cluster.Build(ctx, o.binary); err != nil {
			return 1, err
		}
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return 1, err
	}
	if !mesh.Privileged() {
		status, err := mesh.Enter(o.args())
		if err != nil {
			return 1, fmt.Errorf("it needs root, or a kernel that lets users make user namespaces: %w", err)
		}
		return status, nil
	}
	ok, err := o.act(ctx, dir)
	switch {
	case errors.Is(err, os.ErrPermission):
		return 1, fmt.Errorf("it needs root, or a kernel that lets users make user namespaces: %w", err)
	case err != nil || !ok:
		return 1, err
	}
	return 0, nil
}

// args are the command line for the same as root of a user namespace.
func (o *options) args() []string {
	return []string{
		"-bin=" + o.binary, fmt.Sprintf("-own=%t", o.own), fmt.Sprintf("-keep=%t", o.keep), fmt.Sprintf("-up=%t", o.up),
		"-measure=" + o.measure, "-for=" + o.length.String(), fmt.Sprintf("-rounds=%d", o.rounds), fmt.Sprintf("-rate=%d", o.rate),
		"-only=" + o.only, "-against=" + o.against, fmt.Sprintf("-pairs=%d", o.pairs), "-json=" + o.json,
	}
}

// act does what was asked for, as root. It returns whether all was well.
func (o *options) act(ctx context.Context, dir string) (bool, error) {
	config := measure.Config{Binary: o.binary, Dir: dir, Out: os.Stdout}
	switch o.measure {
	case "updates":
		config.For = cmp.Or(o.length, time.Minute)
		return measure.Updates(ctx, config)
	case "soak":
		config.For = cmp.Or(o.length, time.Hour)
		return measure.Soak(ctx, config)
	case "upgrades":
		config.Rounds, config.Rate = o.rounds, cmp.Or(o.rate, 200)
		return o.turns(ctx, measure.Upgrades, config)
	case "attacks":
		config.For, config.Only = cmp.Or(o.length, 2*time.Second), o.only
		return o.turns(ctx, measure.Attacks, config)
	case "names":
		config.For, config.Rate, config.Only = cmp.Or(o.length, 3*time.Second), cmp.Or(o.rate, 2000), o.only
		return o.turns(ctx, measure.Names, config)
	}
	return show.Run(ctx, show.Config{
		Binary: o.binary, Dir: dir, Own: o.own, Quiet: o.up, Keep: o.keep || o.up, Out: os.Stdout,
	})
}

// turns runs a measure with the binary, and with the one that it is compared
// with.
func (o *options) turns(ctx context.Context, m measure.Measure, c measure.Config) (bool, error) {
	turns := measure.Turns{Against: o.against, Pairs: o.pairs}
	if o.json == "" {
		return measure.Run(ctx, m, c, turns)
	}
	file, err := os.OpenFile(o.json, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return false, err
	}
	turns.Results = file
	ok, err := measure.Run(ctx, m, c, turns)
	return ok, errors.Join(err, file.Close())
}
