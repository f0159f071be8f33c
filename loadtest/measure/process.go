package measure

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
)

// sample is what a process has at one time.
type sample struct {
	goroutines int // 0: it has none, or does not tell
	files      int
	rss        int // KiB
}

func (s sample) String() string {
	told := "–"
	if s.goroutines > 0 {
		told = strconv.Itoa(s.goroutines)
	}
	return fmt.Sprintf("%5s %4d %6.1f MiB", told, s.files, float64(s.rss)/1024)
}

// take looks at a ztunnel, from outside but for its goroutines.
func take(ctx context.Context, z *cluster.Ztunnel) (sample, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", z.PID()))
	if err != nil {
		return sample{}, fmt.Errorf("count descriptors of %s: %w", z.Name, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", z.PID()))
	if err != nil {
		return sample{}, fmt.Errorf("look at %s: %w", z.Name, err)
	}
	rss, err := residentSize(string(status))
	if err != nil {
		return sample{}, fmt.Errorf("look at %s: %w", z.Name, err)
	}
	return sample{goroutines: goroutines(ctx, z), files: len(entries), rss: rss}, nil
}

// alive tells whether a process has not ended; one that nobody has waited for yet
// has.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	rest, found := afterLast(string(stat), ") ")
	return err == nil && found && !strings.HasPrefix(rest, "Z")
}

// residentSize reads a process's status, KiB.
func residentSize(status string) (int, error) { return statusSize(status, "VmRSS") }

// statusSize reads a size out of a process's status, KiB.
func statusSize(status, field string) (int, error) {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")))
		}
	}
	return 0, fmt.Errorf("no %s in its status", field)
}

// resetPeak makes the peak of a process's resident memory what it has now, which
// it returns, KiB. It needs a kernel that lets it.
func resetPeak(pid int) (int, error) {
	const peak = "5" // of clear_refs, see proc_pid_clear_refs(5)
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte(peak), 0); err != nil {
		return 0, fmt.Errorf("reset the peak of process %d: %w", pid, err)
	}
	return peakSize(pid)
}

// peakSize is the most resident memory that a process had, KiB.
func peakSize(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return statusSize(string(status), "VmHWM")
}

// goroutines asks the admin server; 0 is no answer.
func goroutines(ctx context.Context, z *cluster.Ztunnel) int {
	code, body, err := z.Get(ctx, mesh.AdminPort, "/debug/pprof/goroutine?debug=1")
	if err != nil || code != http.StatusOK {
		return 0
	}
	var n int
	if _, err := fmt.Sscanf(body, "goroutine profile: total %d", &n); err != nil {
		return 0
	}
	return n
}

// A limit is by how much something may grow: in parts of a hundred, and not
// less than an amount, which is noise.
type limit struct {
	what    string
	of      func(sample) int
	percent int
	noise   int
}

var limits = []limit{
	{"goroutines", func(s sample) int { return s.goroutines }, 10, 20},
	{"descriptors", func(s sample) int { return s.files }, 10, 10},
	{"RSS in KiB", func(s sample) int { return s.rss }, 15, 8 << 10},
}

// fewest samples that growth can be told from.
const fewest = 8

// growth compares the last quarter of the samples with the second, by their
// medians: in the first quarter a process may warm up. It returns what grew by
// more than it may.
func growth(samples []sample) (grown []string) {
	if len(samples) < fewest {
		return nil
	}
	quarter := len(samples) / 4
	for _, l := range limits {
		before, after := median(samples[quarter:2*quarter], l.of), median(samples[len(samples)-quarter:], l.of)
		if by := after - before; by > max(l.noise, before*l.percent/100) {
			grown = append(grown, fmt.Sprintf("%s grew from %d to %d", l.what, before, after))
		}
	}
	return grown
}

func median(samples []sample, of func(sample) int) int {
	values := make([]int, 0, len(samples))
	for _, s := range samples {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}
