// Command demo shows the product on one machine: a mesh of two nodes and
// several pods, each with its own ztunnel in dedicated mode, and what it does
// for them. It measures everything that it claims, there and then, and ends
// with a table of it.
//
//	demo [-ztunnel PATH] [-keep]
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
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"ztunnel/loadtest/mesh"
)

// timeLimit ends a demonstration that hangs; it takes a fraction of it.
const timeLimit = 3 * time.Minute

func main() { os.Exit(run()) }

// run returns the exit status.
func run() int {
	binary := flag.String("ztunnel", "", "`path` of the ztunnel to show; it is built if empty")
	keep := flag.Bool("keep", false, "stay up after the table, until Ctrl-C")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	dir, err := os.MkdirTemp("", "ztunnel-demo-")
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // nobody can do anything about it
	out := newConsole(os.Stdout)
	if *binary == "" {
		*binary = filepath.Join(dir, "ztunnel")
		if !out.step(ctx, "build ztunnel", func(ctx context.Context) (string, error) { return "", build(ctx, *binary) }) {
			return 1
		}
	}
	if *binary, err = filepath.Abs(*binary); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		return 1
	}
	if !mesh.Privileged() {
		return enter(*binary, *keep)
	}
	return show(ctx, out, *binary, dir, *keep)
}

// build compiles the ztunnel of this repository, as it is delivered: static.
func build(ctx context.Context, path string) error {
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "ztunnel/cmd/ztunnel")
	command.Env = append(command.Environ(), "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, output)
	}
	return nil
}

// enter shows everything as root of a user namespace.
func enter(binary string, keep bool) int {
	status, err := mesh.Enter([]string{"-ztunnel=" + binary, fmt.Sprintf("-keep=%t", keep)})
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: it needs root, or a kernel that lets users make user namespaces: %v\n", err)
		return 1
	}
	return status
}

// show makes the mesh, shows everything and removes the mesh.
func show(ctx context.Context, out *console, binary, dir string, keep bool) int {
	limited, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	m, err := mesh.New()
	if errors.Is(err, os.ErrPermission) {
		fmt.Fprintf(os.Stderr, "demo: it needs root, or a kernel that lets users make user namespaces: %v\n", err)
		return 1
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		return 1
	}
	w := &world{mesh: m, binary: binary, dir: dir}
	defer w.close()
	if !w.build(limited, out) {
		return 1
	}
	proofs := w.proofs()
	for _, p := range proofs {
		if limited.Err() == nil {
			w.prove(limited, out, p)
		}
	}
	if ctx.Err() != nil {
		fmt.Fprintln(out.w, "\nInterrupted. Everything is removed.")
		return 1
	}
	ok := out.table(proofs)
	if keep {
		w.tell(out.w)
		<-ctx.Done()
	}
	if !ok {
		return 1
	}
	return 0
}
