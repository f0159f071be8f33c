// Command interop proves that ztunnel works with a real Envoy as a waypoint and
// as an east-west gateway, in a mesh on one machine.
//
//	interop -envoy ENVOY [-bin ZTUNNEL] [-ipv4]
//
// Without -bin it builds the ztunnel of this repository; with -bin, any drop-in
// binary may take part, and what only this repository's claims is left out.
//
// All is done over IPv4 and again over IPv6; with -ipv4, for a kernel that has no
// other, over IPv4 alone.
//
// It needs root, or a kernel that lets users make user namespaces, and touches
// nothing of the host's network. The exit status is 1 if anything failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/interop"
	"ztunnel/loadtest/mesh"
)

func main() {
	c := interop.Config{Out: os.Stdout}
	flag.StringVar(&c.Envoy, "envoy", "", "`path` of Envoy")
	flag.StringVar(&c.Binary, "bin", "", "`path` of a ztunnel; that of this repository is built if empty")
	flag.BoolVar(&c.Own, "own", false, "hold the binary of -bin to all that this repository claims")
	flag.BoolVar(&c.IPv4, "ipv4", false, "leave out IPv6")
	flag.Parse()
	if flag.NArg() > 0 || c.Envoy == "" {
		flag.Usage()
		os.Exit(2)
	}
	status, err := run(c)
	if err != nil {
		fmt.Fprintf(os.Stderr, "interop: %v\n", err)
	}
	os.Exit(status)
}

// run returns the exit status, which is not 0 with an error.
func run(c interop.Config) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "interop-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // nobody can do anything about it
	c.Dir = dir
	if c.Binary == "" {
		c.Own, c.Binary = true, filepath.Join(dir, "ztunnel")
		fmt.Println("  build ztunnel")
		if err := cluster.Build(ctx, c.Binary); err != nil {
			return 1, err
		}
	}
	for _, path := range []*string{&c.Binary, &c.Envoy} {
		if *path, err = filepath.Abs(*path); err != nil {
			return 1, err
		}
	}
	const needsRoot = "it needs root, or a kernel that lets users make user namespaces: %w"
	if !mesh.Privileged() {
		status, err := mesh.Enter([]string{"-bin=" + c.Binary, "-envoy=" + c.Envoy, fmt.Sprintf("-own=%t", c.Own), fmt.Sprintf("-ipv4=%t", c.IPv4)})
		if err != nil {
			return 1, fmt.Errorf(needsRoot, err)
		}
		return status, nil
	}
	ok, err := interop.Run(ctx, c)
	switch {
	case errors.Is(err, os.ErrPermission):
		return 1, fmt.Errorf(needsRoot, err)
	case err != nil || !ok:
		return 1, err
	}
	return 0, nil
}
