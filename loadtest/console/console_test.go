package console

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func does(figure string, err error) Do {
	return func(context.Context) (string, error) { return figure, err }
}

func TestSteps(t *testing.T) {
	for name, test := range map[string]struct {
		steps  []Step
		ok     bool
		failed int
		want   []string
	}{
		"all go well": {[]Step{{"one thing", does("figure", nil)}, {"another", does("two\nlines", nil)}}, true, 0, []string{"one thing", "✓", "ms  figure\n", "another"}},
		"one fails": {
			[]Step{{"one thing", does("", errors.New("broken"))}, {"another", does("", nil)}},
			false, 1,
			[]string{"✗", `step "one thing" failed: broken`},
		},
	} {
		var out strings.Builder
		failed := 0
		ok := New(&out).Steps(t.Context(), test.steps, func() { failed++ })
		if ok != test.ok || failed != test.failed {
			t.Errorf("%s: Steps = %t, %d calls of failed, want %t, %d", name, ok, failed, test.ok, test.failed)
		}
		for _, want := range test.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in:\n%s", name, want, &out)
			}
		}
		if !ok && strings.Contains(out.String(), "another") {
			t.Errorf("%s: it goes on:\n%s", name, &out)
		}
	}
}

// A claim counts only if it was tried and held.
func TestProve(t *testing.T) {
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		proof Proof
		ok    bool
		want  string
	}{
		"held":         {Proof{Line: 2, Run: does("42 times\nand more", nil)}, true, "  ✓  2  it works\n        42 times\n        and more\n\nAll of it is true here."},
		"failed":       {Proof{Line: 2, Run: does("", broken)}, false, "  ✗  2  it works\n        broken\n\nNOT all of it is true here."},
		"not claimed":  {Proof{Line: 2, Run: does("", &SkipError{"not installed"})}, true, "  –  2  it works\n        not installed\n\nAll"},
		"not in it":    {Proof{Run: does("", nil)}, true, "title\n\n\nAll of it"},
		"failed aside": {Proof{Run: does("", broken)}, false, "title\n\n\nNOT all of it"},
	} {
		var out strings.Builder
		failed := 0
		p := test.proof
		p.Claim, p.Doing = "it works", "try it"
		ok := New(&out).Prove(t.Context(), "title", []*Proof{&p}, func() { failed++ })
		if ok != test.ok || (failed == 0) != test.ok || !strings.Contains(out.String(), test.want) {
			t.Errorf("%s: Prove = %t, %d calls of failed, want %t, with %q in:\n%s", name, ok, failed, test.ok, test.want, &out)
		}
	}
}

func TestProve_Order(t *testing.T) {
	var out strings.Builder
	New(&out).Prove(t.Context(), "title", []*Proof{{Line: 2, Claim: "second", Run: does("", nil)}, {Line: 1, Claim: "first", Run: does("", nil)}}, func() {})
	if text := out.String(); strings.Index(text, "first") > strings.Index(text, "second") {
		t.Errorf("the table is not in the order of its lines:\n%s", text)
	}
}

// What comes after the end of the time was not proven, be it in the table or not;
// after an interruption there is no table.
func TestProve_End(t *testing.T) {
	for _, late := range []Proof{{Line: 2, Claim: "late"}, {}} {
		for name, end := range map[string]error{"time is over": context.DeadlineExceeded, "interrupted": context.Canceled} {
			ctx, cancel := context.WithCancelCause(t.Context())
			var out strings.Builder
			late.Run = func(context.Context) (string, error) {
				t.Errorf("%s: it goes on", name)
				return "", nil
			}
			ok := New(&out).Prove(ctx, "title", []*Proof{
				{Line: 1, Claim: "early", Run: func(context.Context) (string, error) { cancel(end); return "", nil }}, &late,
			}, func() { t.Errorf("%s: failed is called", name) })
			table := strings.Contains(out.String(), "title")
			if ok || table != errors.Is(end, context.DeadlineExceeded) || table && !strings.Contains(out.String(), "NOT all") {
				t.Errorf("%s: Prove = %t, want false; it printed:\n%s", name, ok, &out)
			}
			if reached := strings.Contains(out.String(), "✗  2  late\n        not reached"); reached != (table && late.Line > 0) {
				t.Errorf("%s: the table is\n%s", name, &out)
			}
		}
	}
}

func TestTail(t *testing.T) {
	var out strings.Builder
	New(&out).Tail("a log", []string{"one\ttwo", "three"})
	if got, want := out.String(), "    the last lines of a log:\n      one  two\n      three\n"; got != want {
		t.Errorf("Tail prints %q, want %q", got, want)
	}
}

func TestTook(t *testing.T) {
	for d, want := range map[time.Duration]string{300 * time.Microsecond: "0.3 ms", 35 * time.Millisecond: "35 ms", 1500 * time.Millisecond: "1.50 s"} {
		if got := Took(d); got != want {
			t.Errorf("Took(%v) = %q, want %q", d, got, want)
		}
	}
}
