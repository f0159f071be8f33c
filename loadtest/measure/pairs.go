package measure

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Measure is one that can be run in turns. It returns what it found; the error
// says that it found nothing.
type Measure func(context.Context, Config) (*Result, error)

// Turns says how [Run] runs a measure.
type Turns struct {
	// Against is a second binary, which is measured in turns with that of the
	// configuration; empty: only one is.
	Against string
	// Pairs is how often each has its turn; 0 is once.
	Pairs int
	// Results gets each result as a line of JSON; nil: nobody.
	Results io.Writer
}

// Run runs a measure, on a mesh of its own each time, in turns A B A B if there
// are two binaries. It prints the median of the ratios of neighbouring turns,
// and returns whether all went well with the first binary. What the other one
// does badly is printed only.
func Run(ctx context.Context, m Measure, c Config, t Turns) (bool, error) {
	binaries := []string{c.Binary}
	if t.Against != "" {
		binaries = append(binaries, t.Against)
	}
	var pairs [][2]Result
	ok := true
	for turn := range max(1, t.Pairs) {
		var pair [2]Result
		for i, binary := range binaries {
			one := c
			one.Binary, one.Dir = binary, filepath.Join(c.Dir, fmt.Sprintf("%c%d", 'a'+i, turn))
			if err := os.Mkdir(one.Dir, 0o700); err != nil {
				return false, err
			}
			fmt.Fprintf(c.Out, "%s:\n", binary)
			r, err := m(ctx, one)
			if err != nil {
				return false, fmt.Errorf("measure %s: %w", binary, err)
			}
			r.Binary = binary
			if t.Results != nil {
				if err := r.write(t.Results); err != nil {
					return false, err
				}
			}
			pair[i] = *r
			ok = ok && (i > 0 || r.OK)
		}
		pairs = append(pairs, pair)
	}
	if t.Against != "" {
		tellRatios(c.Out, pairs)
	}
	return ok, nil
}
