package measure

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"ztunnel/loadtest/mesh"
)

const (
	// turnTime is how long round trips are measured before it is the other's turn.
	turnTime = 2 * time.Second
	// aloneLimit bounds the time of updates without round trips.
	aloneLimit = 15 * time.Second
)

// Updates measures round trips on one connection through two ztunnels, in turns:
// while nothing changes, and while a workload changes 1,000 times a second, each
// time by a message of its own to both. Of each there is as much as Config.For
// says. Then it measures what updates alone cost the ztunnels. Client and server
// are processes of their own, and the control plane yields the processors to
// everything else, for its place is another machine. It returns whether no round
// trip failed, and whether the ztunnels kept up.
func Updates(ctx context.Context, c Config) (bool, error) {
	b, err := newBed(ctx, c, setting{})
	if err != nil {
		return false, err
	}
	defer b.Close() //nolint:errcheck // the figures are there
	if err := b.changeAll(); err != nil {
		return false, err
	}
	if _, err := b.settle(ctx); err != nil {
		return false, err
	}
	t := &turns{bed: b, length: min(turnTime, c.For), quiet: newHistogram(), busy: newHistogram()}
	t.pairs = max(1, int(c.For/t.length))
	if err := t.start(ctx, c.Dir); err != nil {
		return false, err
	}
	restore, err := yieldProcessor(background)
	if err != nil {
		return false, err
	}
	defer restore()
	if err := t.run(ctx); err != nil {
		return false, err
	}
	t.tell()
	if err := t.alone(ctx, min(c.For, aloneLimit)); err != nil {
		return false, err
	}
	restore()
	return t.caughtUp(ctx)
}

// turns are round trips with and without updates, in turns.
type turns struct {
	*bed
	length      time.Duration
	pairs       int
	pinger      *mesh.Process
	lines       int // of it that were read
	quiet, busy *hdrhistogram.Histogram
	p50, p99    []float64 // ratios, one of each pair

	sent int           // updates
	due  time.Duration // for which there should have been updates
}

// start starts server and client, which are this program; see partArgument.
func (t *turns) start(ctx context.Context, dir string) error {
	err := t.serve(ctx, dir)
	if err != nil {
		return err
	}
	t.pinger, err = t.client.Start(mesh.Command{
		Path: "/proc/self/exe",
		Args: []string{
			partArgument, pingPart, fmt.Sprintf("-at=%s:%d", serviceAddr.Addr(), pingPort),
			fmt.Sprintf("-turns=%d", 2*t.pairs), fmt.Sprintf("-length=%s", t.length),
		},
		LogFile: filepath.Join(dir, "ping.log"),
	})
	return err
}

// run measures all turns.
func (t *turns) run(ctx context.Context) error {
	if _, err := t.line(ctx, beginLine); err != nil {
		return err
	}
	for range t.pairs {
		quiet, err := t.histogram(ctx)
		if err != nil {
			return err
		}
		var busy *hdrhistogram.Histogram
		err = t.whileChanging(ctx, func() (err error) {
			busy, err = t.histogram(ctx)
			return err
		})
		if err != nil {
			return err
		}
		t.quiet.Merge(quiet)
		t.busy.Merge(busy)
		ratio := func(q float64) float64 {
			return float64(busy.ValueAtQuantile(q)) / float64(max(1, quiet.ValueAtQuantile(q)))
		}
		t.p50, t.p99 = append(t.p50, ratio(50)), append(t.p99, ratio(99))
	}
	return nil
}

// histogram waits for that of the client's present turn.
func (t *turns) histogram(ctx context.Context) (*hdrhistogram.Histogram, error) {
	line, err := t.line(ctx, turnLine)
	if err != nil {
		return nil, err
	}
	h, err := hdrhistogram.Decode([]byte(line))
	if err != nil {
		return nil, fmt.Errorf("histogram of the client: %w", err)
	}
	return h, nil
}

// line waits for the client's next line and returns what follows the prefix.
func (t *turns) line(ctx context.Context, prefix string) (string, error) {
	limited, cancel := context.WithTimeout(ctx, t.length+readyLimit)
	defer cancel()
	line, err := t.pinger.Log.Await(limited, t.lines, func(string) bool { return true })
	if err != nil {
		return "", fmt.Errorf("wait for the client: %w", err)
	}
	t.lines++
	rest, ok := strings.CutPrefix(line, prefix)
	if !ok {
		return "", fmt.Errorf("the client says %q", line)
	}
	return rest, nil
}

func (t *turns) tell() {
	for _, kind := range []struct {
		what string
		h    *hdrhistogram.Histogram
	}{{"quiet", t.quiet}, {fmt.Sprintf("%d updates/s", updateRate), t.busy}} {
		fmt.Fprintf(t.out, "%-16s %d × %-6s p50 %5d µs  p90 %5d µs  p99 %5d µs  max %6d µs  %d round trips\n", kind.what, t.pairs, t.length,
			kind.h.ValueAtQuantile(50), kind.h.ValueAtQuantile(90), kind.h.ValueAtQuantile(99), kind.h.Max(), kind.h.TotalCount())
	}
	fmt.Fprintf(t.out, "%-27s p50 × %.2f  p99 × %.2f; p99 of single turns from × %.2f to × %.2f\n", "ratio, median of the turns",
		middle(t.p50), middle(t.p99), slices.Min(t.p99), slices.Max(t.p99))
}

// middle is the median.
func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// whileChanging makes updates as long as f runs.
func (t *turns) whileChanging(ctx context.Context, f func() error) error {
	changing, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	var changeErr error
	start := time.Now()
	running.Go(func() { changeErr = t.change(changing) })
	err := f()
	stop()
	running.Wait()
	t.due += time.Since(start)
	if err == nil {
		err = changeErr
	}
	return err
}

// alone measures the processor time that the ztunnels take for updates without
// any traffic.
func (t *turns) alone(ctx context.Context, length time.Duration) error {
	if err := t.pinger.Wait(ctx); err != nil {
		return fmt.Errorf("the client: %w: %s", err, strings.Join(t.pinger.Log.Tail(1), ""))
	}
	before, sent := make([]time.Duration, len(t.ztunnels)), t.sent
	for i, z := range t.ztunnels {
		var err error
		if before[i], err = processorTime(z.PID()); err != nil {
			return err
		}
	}
	err := t.whileChanging(ctx, func() error {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(length):
			return nil
		}
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "processor time of each ztunnel for an update, without round trips:")
	for i, z := range t.ztunnels {
		after, err := processorTime(z.PID())
		if err != nil {
			return err
		}
		fmt.Fprintf(t.out, " %d µs", (after-before[i]).Microseconds()/int64(max(1, t.sent-sent)))
	}
	fmt.Fprintln(t.out)
	return nil
}

// caughtUp waits for the ztunnels and looks whether they know the last change.
func (t *turns) caughtUp(ctx context.Context) (bool, error) {
	late, err := t.settle(ctx)
	if err != nil {
		return false, err
	}
	stats := t.Plane.Stats()
	fmt.Fprintf(t.out, "%d updates made, all acknowledged %d ms after the last; %d responses, %d rejected\n",
		t.sent, late.Milliseconds(), stats.Responses, stats.Nacks)
	ok := stats.Nacks == 0
	for _, z := range t.ztunnels {
		_, dump, err := z.Get(ctx, mesh.AdminPort, "/config_dump")
		if err != nil {
			return false, err
		}
		if !strings.Contains(dump, crowdRevision(t.sent-1)) {
			fmt.Fprintf(t.out, "%s does not know the last change\n", z.Name)
			ok = false
		}
	}
	if want := int(t.due.Seconds() * updateRate); t.sent < want*95/100 {
		fmt.Fprintf(t.out, "the control plane did not keep up: %d updates of %d\n", t.sent, want)
		ok = false
	}
	return ok, nil
}
