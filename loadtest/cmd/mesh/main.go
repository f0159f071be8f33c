// Command mesh runs a mesh of two nodes on one machine, in shared mode, with a
// control plane of its own, and shows what a ztunnel does in it.
//
//	mesh [-bin ZTUNNEL] [-keep]           prove what it does, end with a table
//	mesh [-bin ZTUNNEL] -up               only build it, for exploring
//	mesh [-bin ZTUNNEL] -measure updates  latency while xDS changes 1,000 times a second
//	mesh [-bin ZTUNNEL] -measure soak     hours of pods that come and go
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
}

func main() {
	o := options{}
	flag.StringVar(&o.binary, "bin", "", "`path` of a ztunnel; that of this repository is built if empty")
	flag.BoolVar(&o.own, "own", false, "hold the binary of -bin to all that this repository claims")
	flag.BoolVar(&o.keep, "keep", false, "stay up after the table, until Ctrl-C")
	flag.BoolVar(&o.up, "up", false, "prove nothing, stay up until Ctrl-C")
	flag.StringVar(&o.measure, "measure", "", "measure `what` instead: updates or soak")
	flag.DurationVar(&o.length, "for", 0, "how long to measure (updates: 1m, soak: 1h)")
	flag.Parse()
	status, err := o.run()
	if err != nil {
		fmt.Fprintf(os.Stderr, "mesh: %v\n", err)
	}
	os.Exit(status)
}

// run returns the exit status, which is not 0 with an error.
func (o *options) run() (int, error) {
	if flag.NArg() > 0 || o.measure != "" && o.measure != "updates" && o.measure != "soak" {
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
		"-measure=" + o.measure, "-for=" + o.length.String(),
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
	}
	return show.Run(ctx, show.Config{
		Binary: o.binary, Dir: dir, Own: o.own, Quiet: o.up, Keep: o.keep || o.up, Out: os.Stdout,
	})
}
