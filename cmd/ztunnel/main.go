// Command ztunnel is the node proxy of Istio's ambient mesh: it carries the
// connections of pods over HBONE, applies layer 4 authorization, and shows its
// own telemetry to nobody but authenticated and authorised readers.
//
//	ztunnel [proxy ...]   run the proxy, configured by the environment
//	ztunnel version       print the version
//	ztunnel help          print the commands
//
// This is the only package that knows all others: it makes the parts, connects
// them, runs them together and ends them in order.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run executes the command of the arguments and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	command := "proxy"
	if len(args) > 0 {
		command = args[0]
	}
	switch command {
	case "proxy":
		if err := serve(args, stdout); err != nil {
			say(stderr, "ztunnel: %v\n", err)
			return 1
		}
		return 0
	case "version":
		say(stdout, "%v\n", buildInfo())
		return 0
	case "help":
		help(stdout)
		return 0
	default:
		say(stderr, "unknown command: %s\n", command)
		help(stderr)
		return 1
	}
}

// say writes to the terminal. If nobody is there, nobody can be told.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

func help(w io.Writer) {
	say(w, `Istio Ztunnel (%s)

Commands:
proxy (default) - Start the ztunnel proxy
version         - Print the version of ztunnel
help            - Print commands and version of ztunnel
`, buildInfo())
}
