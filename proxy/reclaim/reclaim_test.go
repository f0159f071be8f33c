package reclaim

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const mib = 1 << 20

func TestDecider(t *testing.T) {
	for name, tc := range map[string]struct {
		samples []sample
		want    []bool
	}{
		"a burst that is over, once": {
			[]sample{{allocated: 100 * mib, live: 10 * mib}, {allocated: 120 * mib, live: 10 * mib}, {allocated: 120 * mib, live: 10 * mib}, {allocated: 120 * mib, live: 10 * mib}},
			[]bool{false, false, true, false},
		},
		"never while busy": {
			[]sample{{allocated: 100 * mib}, {allocated: 110 * mib}, {allocated: 120 * mib}},
			[]bool{false, false, false},
		},
		"the start, then little": {
			[]sample{{allocated: 3 * mib}, {allocated: 3 * mib}, {allocated: 4 * mib}, {allocated: 4 * mib}},
			[]bool{false, true, false, false},
		},
		"what is little beside a large heap": {
			[]sample{{allocated: 880 * mib}, {allocated: 880 * mib}, {allocated: 900 * mib, live: 400 * mib}, {allocated: 900 * mib, live: 400 * mib}},
			[]bool{false, true, false, false},
		},
	} {
		var d decider
		for i, s := range tc.samples {
			if got := d.next(s); got != tc.want[i] {
				t.Errorf("%s: sample %d: next() = %v, want %v", name, i, got, tc.want[i])
			}
		}
	}
}

func TestReader_DoesNotAllocate(t *testing.T) {
	read := reader()
	if s := read(); s.allocated == 0 {
		t.Error("nothing was allocated so far")
	}
	if n := testing.AllocsPerRun(10, func() { read() }); n != 0 {
		t.Errorf("a sample makes %v allocations, want 0", n)
	}
}

func TestRun_TrimsAndEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		trims := 0
		if err := Run(ctx, Config{Trim: func() { trims++ }, Log: slog.New(slog.DiscardHandler)}); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		if trims != 2 { // for the start of the process
			t.Errorf("Trim was called %d times, want twice", trims)
		}
	})
}

func TestReadOnly(t *testing.T) {
	const maps = `00400000-00c00000 r-xp 00000000 fe:00 1 /usr/local/bin/ztunnel
00c00000-01400000 r--p 00800000 fe:00 1 /usr/local/bin/ztunnel
01400000-01480000 rw-p 01000000 fe:00 1 /usr/local/bin/ztunnel
c000000000-c000400000 rw-p 00000000 00:00 0
7f0000000000-7f0000100000 r-xp 00000000 fe:00 2 /lib/libc.so.6
7f0000200000-7f0000300000 r--s 00000000 fe:00 1 /usr/local/bin/ztunnel
`
	got, err := readOnly(strings.NewReader(maps), "/usr/local/bin/ztunnel")
	if err != nil || len(got) != 2 || got[0] != (span{0x400000, 0xc00000}) || got[1] != (span{0xc00000, 0x1400000}) {
		t.Errorf("readOnly() = %x, %v, want the code and the constants", got, err)
	}
}

// What was released is still there: code runs and constants can be read.
func TestRelease_LosesNothing(t *testing.T) {
	pages, err := program()
	if err != nil || len(pages) == 0 {
		t.Fatalf("program() = %v, %v, want the mappings of this test", pages, err)
	}
	release(pages)
	if got := strings.Repeat("constant ", 2); got != "constant constant " {
		t.Errorf("got %q after the release", got)
	}
}
