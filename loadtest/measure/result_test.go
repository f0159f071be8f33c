package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func result(figures map[string]float64) Result { return Result{Figures: figures} }

func TestRatios(t *testing.T) {
	got := ratios([][2]Result{
		{result(map[string]float64{"p50_us": 2, "lost": 0, "rate": 5}), result(map[string]float64{"p50_us": 1, "lost": 3})},
		{result(map[string]float64{"p50_us": 9, "lost": 1}), result(map[string]float64{"p50_us": 3, "lost": 1})},
		{result(map[string]float64{"p50_us": 1, "lost": 1}), result(map[string]float64{"p50_us": 10, "lost": 1})},
	})
	if diff := cmp.Diff(map[string]float64{"p50_us": 2}, got); diff != "" {
		t.Errorf("ratios (-want +got):\n%s", diff)
	}
}

// Two binaries have their turns one after the other, and only the first one's
// faults count.
func TestRun(t *testing.T) {
	var order []string
	measure := func(_ context.Context, c Config) (*Result, error) {
		order = append(order, c.Binary)
		return &Result{Measure: "test", OK: c.Binary == "a", Figures: map[string]float64{"x": float64(len(order))}}, nil
	}
	var out, results strings.Builder
	ok, err := Run(t.Context(), measure, Config{Binary: "a", Dir: t.TempDir(), Out: &out}, Turns{Against: "b", Pairs: 2, Results: &results})
	if !ok || err != nil || fmt.Sprint(order) != "[a b a b]" {
		t.Errorf("Run = %t, %v after %v, want true after [a b a b]", ok, err, order)
	}
	if want := `{"measure":"test","binary":"a","ok":true,"figures":{"x":1}}` + "\n"; !strings.HasPrefix(results.String(), want) || strings.Count(results.String(), "\n") != 4 {
		t.Errorf("results:\n%swant four that begin with\n%s", &results, want)
	}
	if !strings.Contains(out.String(), "× 0.75") { // 3/4; the other is 1/2
		t.Errorf("it printed:\n%swant × 0.75", &out)
	}
	if ok, _ := Run(t.Context(), measure, Config{Binary: "c", Dir: t.TempDir(), Out: io.Discard}, Turns{}); ok {
		t.Error("Run of a binary that is not well = true")
	}
	failing := func(context.Context, Config) (*Result, error) { return nil, errors.New("no mesh") }
	if _, err := Run(t.Context(), failing, Config{Dir: t.TempDir(), Out: io.Discard}, Turns{}); err == nil {
		t.Error("Run of a measure that fails = nil, want its error")
	}
}
