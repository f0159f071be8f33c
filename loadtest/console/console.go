// Package console tells people what a run on the one-machine mesh does, and what
// it has proven. It owns the words of progress and table, and the rule that a
// claim counts only if it was tried and held.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// ProofLimit is the time that one proof may take.
const ProofLimit = 30 * time.Second

// stepWidth is where marks stand, in columns.
const stepWidth = 66

// Do does something, and tells what it has measured, in words; one line, or
// several.
type Do = func(context.Context) (figure string, err error)

// Step is something that must be done before anything can be proven.
type Step struct {
	What string
	Do   Do
}

// Proof is something that is done and measured, and what it proves.
type Proof struct {
	// Line is the proof's place in the table. One with 0 is not in it, but must
	// hold all the same.
	Line int
	// Claim is what the table says, and Doing what is done.
	Claim, Doing string
	// Run does it. It returns the figure of the table. A [SkipError] says that the
	// claim is not made here.
	Run Do

	result
}

// result is what became of a proof.
type result struct {
	done    bool
	err     error
	figure  string
	skipped string // why it was not tried
}

// SkipError says that something was not tried, and why.
type SkipError struct{ Why string }

// Error implements error.
func (e *SkipError) Error() string { return e.Why }

// Console writes progress and table for people. It is for one goroutine.
type Console struct {
	// Writer is where all goes. Others may write whole lines to it in between.
	io.Writer
	start time.Time
}

// New begins a run, whose time is told at its end.
func New(w io.Writer) *Console { return &Console{Writer: w, start: time.Now()} }

// Steps does one step after the other, and returns whether all went well. At the
// first that fails it calls failed, and does no more.
func (c *Console) Steps(ctx context.Context, steps []Step, failed func()) bool {
	for _, s := range steps {
		if !c.step(ctx, s) {
			failed()
			return false
		}
	}
	return true
}

// step does a step and tells what, how long it took, and why it failed.
func (c *Console) step(ctx context.Context, s Step) bool {
	fmt.Fprintf(c, "  %-*s ", stepWidth, s.What)
	start := time.Now()
	figure, err := s.Do(ctx)
	mark := "✓"
	if err != nil {
		mark = "✗"
	}
	fmt.Fprintf(c, "%s %7s", mark, Took(time.Since(start)))
	if figure != "" && !strings.Contains(figure, "\n") {
		fmt.Fprintf(c, "  %s", figure)
	}
	fmt.Fprintln(c)
	if err != nil {
		fmt.Fprintf(c, "    step %q failed: %v\n", s.What, err)
	}
	return err == nil
}

// Prove does the proofs in their order, each with a limit of time, until the end
// of ctx, and ends with a table under the title. It returns whether all claims
// were tried and held. After each proof that fails it calls failed. If ctx was
// cancelled there is no table: it would say little.
func (c *Console) Prove(ctx context.Context, title string, proofs []*Proof, failed func()) bool {
	for _, p := range proofs {
		if ctx.Err() == nil && !c.prove(ctx, p) && !interrupted(ctx) {
			failed()
		}
	}
	return !interrupted(ctx) && c.table(title, proofs)
}

// interrupted tells an end that somebody wants from one for want of time.
func interrupted(ctx context.Context) bool { return errors.Is(context.Cause(ctx), context.Canceled) }

// prove does one proof and remembers the result.
func (c *Console) prove(ctx context.Context, p *Proof) bool {
	ctx, cancel := context.WithTimeout(ctx, ProofLimit)
	defer cancel()
	ok := c.step(ctx, Step{p.Doing, func(ctx context.Context) (string, error) {
		figure, err := p.Run(ctx)
		if skip, ok := errors.AsType[*SkipError](err); ok {
			p.skipped = skip.Why
			return skip.Why, nil
		}
		p.figure, p.err = figure, err
		return "", err
	}})
	p.done = true
	return ok
}

// table shows what was proven, and tells whether all was.
func (c *Console) table(title string, proofs []*Proof) bool {
	all := true
	fmt.Fprintf(c, "\n%s\n\n", title)
	for _, p := range slices.SortedStableFunc(slices.Values(proofs), func(a, b *Proof) int { return a.Line - b.Line }) {
		mark, figure := "✓", p.figure
		switch {
		case p.skipped != "":
			mark, figure = "–", p.skipped
		case !p.done:
			mark, figure, all = "✗", "not reached", false
		case p.err != nil:
			mark, figure, all = "✗", p.err.Error(), false
		}
		if p.Line == 0 {
			continue
		}
		fmt.Fprintf(c, "  %s %2d  %s\n", mark, p.Line, p.Claim)
		for line := range strings.SplitSeq(figure, "\n") {
			fmt.Fprintf(c, "        %s\n", line)
		}
	}
	verdict := "All of it is true here."
	if !all {
		verdict = "NOT all of it is true here."
	}
	fmt.Fprintf(c, "\n%s %s in all.\n", verdict, Took(time.Since(c.start)))
	return all
}

// Tail shows the last lines of a log.
func (c *Console) Tail(name string, lines []string) {
	fmt.Fprintf(c, "    the last lines of %s:\n", name)
	for _, line := range lines {
		fmt.Fprintf(c, "      %s\n", strings.ReplaceAll(line, "\t", "  "))
	}
}

// Took is a duration as people read it.
func Took(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}
