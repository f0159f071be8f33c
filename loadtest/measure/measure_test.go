package measure

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"ztunnel/loadtest/cluster"
	"ztunnel/proxy/needs"
)

var binary = flag.String("ztunnel", "", "path of a drop-in ztunnel to measure instead of that of this repository")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// flat is n samples that do not grow.
func flat(n int) []sample {
	samples := make([]sample, n)
	for i := range samples {
		samples[i] = sample{goroutines: 100 + i%3, files: 50, rss: 20 << 10}
	}
	return samples
}

func TestGrowth(t *testing.T) {
	for name, test := range map[string]struct {
		change func([]sample)
		want   []string
	}{
		"nothing": {func([]sample) {}, nil},
		"while warming up": {func(s []sample) {
			s[0].rss, s[1].files = 1, 1
		}, nil},
		"noise": {func(s []sample) {
			s[len(s)-1].files = 1000
			for i := range s {
				s[i].rss += i * 10
			}
		}, nil},
		"descriptors": {func(s []sample) {
			for i := range s {
				s[i].files += i
			}
		}, []string{"descriptors grew from 59 to 73"}},
		"everything": {func(s []sample) {
			for i := range s {
				s[i] = sample{goroutines: 100 * (i + 1), files: 100 * (i + 1), rss: 10000 * (i + 1)}
			}
		}, []string{"goroutines grew from 1000 to 2400", "descriptors grew from 1000 to 2400", "RSS in KiB grew from 100000 to 240000"}},
	} {
		samples := flat(26)
		test.change(samples)
		if diff := cmp.Diff(test.want, growth(samples)); diff != "" {
			t.Errorf("%s: growth (-want +got):\n%s", name, diff)
		}
	}
	few := []sample{{files: 1}, {files: 1000}, {files: 1000000}}
	if got := growth(few); got != nil {
		t.Errorf("growth of %d samples = %q, want nothing: they are too few", len(few), got)
	}
}

func TestResidentSize(t *testing.T) {
	if got, err := residentSize("Name:\tztunnel\nVmRSS:\t   12345 kB\nThreads:\t3\n"); got != 12345 || err != nil {
		t.Errorf("residentSize = %d, %v, want 12345", got, err)
	}
	for _, status := range []string{"", "VmRSS:\tmuch kB\n"} {
		if got, err := residentSize(status); err == nil {
			t.Errorf("residentSize(%q) = %d, want an error", status, got)
		}
	}
}

// What fails counts unless the soak is over, and only some of it is told.
func TestTry(t *testing.T) {
	var out strings.Builder
	s := &soak{bed: &bed{out: &out}, start: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	for range maxFailures + 5 {
		s.try(ctx, "a request", os.ErrClosed)
	}
	s.try(ctx, "a request", nil)
	cancel()
	s.try(ctx, "a request", os.ErrClosed)
	if told := strings.Count(out.String(), "a request: "+os.ErrClosed.Error()); s.failed != maxFailures+5 || told != maxFailures || s.requests != maxFailures+7 {
		t.Errorf("%d requests, %d failed, %d told, want %d, %d, %d", s.requests, s.failed, told, maxFailures+7, maxFailures+5, maxFailures)
	}
}

// testBinary is what to measure in a test, as root.
func testBinary(t *testing.T) string {
	t.Helper()
	needs.Root(t)
	if *binary != "" {
		return *binary
	}
	path := filepath.Join(t.TempDir(), "ztunnel")
	if err := cluster.Build(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a measure for a short time, and returns what it printed.
func run(t *testing.T, length time.Duration, measure func(context.Context, Config) (bool, error)) string {
	t.Helper()
	path := testBinary(t)
	var out strings.Builder
	ok, err := measure(t.Context(), Config{Binary: path, Dir: t.TempDir(), For: length, Out: &out})
	if err != nil || !ok {
		t.Errorf("measure = %t, %v, want true; it printed:\n%s", ok, err, &out)
	}
	return out.String()
}

// Whether the control plane keeps up, for which it yields to all others, depends
// on what else the machine does. All else must be well.
func TestUpdates(t *testing.T) {
	var out strings.Builder
	_, err := Updates(t.Context(), Config{Binary: testBinary(t), Dir: t.TempDir(), For: time.Second, Out: &out})
	text := out.String()
	if err != nil || !strings.Contains(text, "all acknowledged") || !strings.Contains(text, ", 0 rejected") || strings.Contains(text, "does not know the last change") {
		t.Errorf("Updates = %v; it printed:\n%s", err, text)
	}
}

// turn runs a measure that has a result once.
func turn(t *testing.T, measure Measure, c Config) {
	t.Helper()
	var out, results strings.Builder
	c.Binary, c.Dir, c.Out = testBinary(t), t.TempDir(), &out
	ok, err := Run(t.Context(), measure, c, Turns{Results: &results})
	if err != nil || !ok || strings.Count(results.String(), "\n") != 1 {
		t.Errorf("Run = %t, %v, want true and one result; it printed:\n%s%s", ok, err, &out, &results)
	}
}

func TestUpgrades(t *testing.T) { turn(t, Upgrades, Config{Rounds: 2, Rate: 100}) }

func TestNames(t *testing.T) { turn(t, Names, Config{For: 200 * time.Millisecond, Rate: 500}) }

func TestSoak(t *testing.T) {
	if out := run(t, 3*time.Second, Soak); !strings.Contains(out, "0 failed") {
		t.Errorf("it printed:\n%s", out)
	}
}
