package measure

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Result is what one run of a measure found, for machines.
type Result struct {
	// Measure is its name.
	Measure string `json:"measure"`
	// Binary is the path of the ztunnel that was measured.
	Binary string `json:"binary"`
	// OK tells whether nothing went wrong that should not.
	OK bool `json:"ok"`
	// Figures are what was measured. Their names end in the unit, unless they
	// count something.
	Figures map[string]float64 `json:"figures"`
}

// write writes the result as one line.
func (r *Result) write(out io.Writer) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the result of %s: %w", r.Measure, err)
	}
	_, err = fmt.Fprintf(out, "%s\n", line)
	return err
}

// ratios are, for each figure that both have and that is never 0, the median of
// the ratios of pairs: the first divided by the second. A pair are two
// neighbouring turns, so that what changes slowly on the machine is in both.
func ratios(pairs [][2]Result) map[string]float64 {
	all := map[string][]float64{}
	for _, pair := range pairs {
		for name, a := range pair[0].Figures {
			if b := pair[1].Figures[name]; a != 0 && b != 0 {
				all[name] = append(all[name], a/b)
			}
		}
	}
	medians := map[string]float64{}
	for name, values := range all {
		if len(values) == len(pairs) {
			medians[name] = middle(values)
		}
	}
	return medians
}

// tellRatios prints what ratios found, by name.
func tellRatios(out io.Writer, pairs [][2]Result) {
	medians := ratios(pairs)
	fmt.Fprintf(out, "first binary / second, median of %d pairs:\n", len(pairs))
	for _, name := range slices.Sorted(maps.Keys(medians)) {
		fmt.Fprintf(out, "  %-40s × %.2f\n", name, medians[name])
	}
}
