package show

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// console tells what is being done.
type console struct {
	w     io.Writer
	start time.Time
}

func newConsole(w io.Writer) *console { return &console{w: w, start: time.Now()} }

const stepWidth = 62

// step does something and tells what, how long it took, and why it failed.
func (c *console) step(ctx context.Context, what string, do func(context.Context) (string, error)) bool {
	fmt.Fprintf(c.w, "  %-*s ", stepWidth, what)
	start := time.Now()
	figure, err := do(ctx)
	mark := "✓"
	if err != nil {
		mark = "✗"
	}
	fmt.Fprintf(c.w, "%s %7s", mark, took(time.Since(start)))
	if figure != "" && !strings.Contains(figure, "\n") {
		fmt.Fprintf(c.w, "  %s", figure)
	}
	fmt.Fprintln(c.w)
	if err != nil {
		fmt.Fprintf(c.w, "    step %q failed: %v\n", what, err)
	}
	return err == nil
}

// took is a duration as people read it.
func took(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
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
	fmt.Fprintf(c.w, "\nWhat was proven, and measured just now:\n\n")
	for _, p := range slices.SortedFunc(slices.Values(proofs), func(a, b *proof) int { return a.line - b.line }) {
		if p.line == 0 {
			all = all && p.err == nil
			continue
		}
		mark, figure := "✓", p.figure
		switch {
		case p.skipped != "":
			mark, figure = "–", p.skipped
		case !p.done:
			mark, figure, all = "✗", "not reached", false
		case p.err != nil:
			mark, figure, all = "✗", p.err.Error(), false
		}
		fmt.Fprintf(c.w, "  %s %2d  %s\n", mark, p.line, p.claim)
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
