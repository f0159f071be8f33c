package interop

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// proof is something that is done and measured, and what it proves.
type proof struct {
	claim  string // what the table says
	doing  string // what is done
	run    func(context.Context) (string, error)
	result // of run
}

type result struct {
	done    bool
	err     error
	figure  string
	skipped string // why it was not tried
}

// skipError says that something was not tried, and why.
type skipError struct{ why string }

func (e *skipError) Error() string { return e.why }

// console tells what is being done.
type console struct {
	w     io.Writer
	start time.Time
}

const stepWidth = 66

// step does something and tells what, how long it took, and why it failed.
func (c *console) step(ctx context.Context, what string, do func(context.Context) (string, error)) (string, error) {
	fmt.Fprintf(c.w, "  %-*s ", stepWidth, what)
	start := time.Now()
	figure, err := do(ctx)
	mark := "✓"
	if err != nil {
		mark = "✗"
	}
	fmt.Fprintf(c.w, "%s %7s\n", mark, took(time.Since(start)))
	if err != nil {
		fmt.Fprintf(c.w, "    step %q failed: %v\n", what, err)
	}
	return figure, err
}

// took is a duration as people read it.
func took(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// tail shows the last lines of a log.
func (c *console) tail(name string, lines []string) {
	fmt.Fprintf(c.w, "    the last lines of %s:\n", name)
	for _, line := range lines {
		fmt.Fprintf(c.w, "      %s\n", strings.ReplaceAll(line, "\t", "  "))
	}
}

// table shows what was proven, and tells whether all was.
func (c *console) table(proofs []*proof) bool {
	all := true
	fmt.Fprintf(c.w, "\nWhat was proven with a real Envoy, and measured just now:\n\n")
	for i, p := range proofs {
		mark, figure := "✓", p.figure
		switch {
		case p.skipped != "":
			mark, figure = "–", p.skipped
		case !p.done:
			mark, figure, all = "✗", "not reached", false
		case p.err != nil:
			mark, figure, all = "✗", p.err.Error(), false
		}
		fmt.Fprintf(c.w, "  %s %2d  %s\n", mark, i+1, p.claim)
		for line := range strings.SplitSeq(figure, "\n") {
			fmt.Fprintf(c.w, "        %s\n", line)
		}
	}
	verdict := "All of it is true here."
	if !all {
		verdict = "NOT all of it is true here."
	}
	fmt.Fprintf(c.w, "\n%s %s in all.\n", verdict, took(time.Since(c.start)))
	return all
}
