package measure

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/attack"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
)

const (
	// attackShare is how much of a processor an attacker takes. Its place is
	// another machine: here it takes away from those whom it attacks.
	attackShare = 0.25
	// attackTurns is how often each attack is compared with quiet before it.
	attackTurns = 3
	// attackWarmup begins an attack without being measured.
	attackWarmup = 200 * time.Millisecond
	// recovery is between an attack and the next quiet time.
	recovery = 300 * time.Millisecond
	// mostSlower is by how much the 99th percentile of those who behave may grow
	// during an attack, and mostMemory by how many KiB the ztunnel.
	mostSlower, mostMemory = 3.0, 192 << 10
)

// attacks is a running measure of attacks.
type attacks struct {
	*bed
	dir      string
	length   time.Duration // of a turn
	outside  *cluster.Pod  // not captured, on the first node
	client   *cluster.Pod
	seen     *mesh.Log // of the witness
	lines    int       // of it that were read
	target   string    // file
	attempts int
	figures  map[string]float64
}

// Attacks measures what those who behave feel of attacks: a client of one node
// makes round trips on a connection to a server of the other, and new
// connections, while the ztunnel of the server's node is attacked in one way after
// the other. Quiet times and attacks take turns of Config.For, and the median of
// their ratios counts. Attacker, client and server are processes of their own, and
// the attacker may use no more than a quarter of a processor: on one machine it
// also takes time from all others, which is no merit of the attack.
//
// All is well if the 99th percentile of round trips grew to no more than three
// times that of quiet, nothing failed, and the ztunnel's memory has stayed within
// bounds.
func Attacks(ctx context.Context, c Config) (*Result, error) {
	b, err := newBed(ctx, c, setting{})
	if err != nil {
		return nil, err
	}
	defer b.Close() //nolint:errcheck // the figures are there
	a := &attacks{bed: b, dir: c.Dir, length: c.For, client: b.client, figures: map[string]float64{}}
	if err := a.prepare(ctx); err != nil {
		return nil, err
	}
	restore, err := yieldProcessor(lowest)
	if err != nil {
		return nil, err
	}
	defer restore()
	a.header()
	ok, some := true, false
	for i := range attack.All {
		one := &attack.All[i]
		if c.Only != "" && !strings.Contains(one.Name, c.Only) {
			continue
		}
		fine, err := a.measure(ctx, one)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.Name, err)
		}
		ok, some = ok && fine, true
	}
	if !some {
		return nil, fmt.Errorf("there is no attack with %q in its name", c.Only)
	}
	return &Result{Measure: "attacks", OK: ok, Figures: a.figures}, nil
}

// prepare starts server and witness, and makes the attacker.
func (a *attacks) prepare(ctx context.Context) error {
	err := a.serve(ctx, a.dir)
	if err != nil {
		return err
	}
	a.outside, err = a.nodes[0].NewPod(cluster.Spec{Name: "attacker-0", ID: identity("clients", "attacker")})
	if err != nil {
		return err
	}
	certificate, _, err := a.Plane.Issue(a.outside.ID.String(), 0)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		return err
	}
	content, err := json.Marshal(attack.Target{
		Pod: a.server.Addr, AppPort: pingTarget, Ztunnel: a.ztunnels[1].Pod.Addr, Certificate: certificate.Certificate, Key: key,
	})
	if err != nil {
		return err
	}
	a.target = filepath.Join(a.dir, "target.json")
	if err := os.WriteFile(a.target, content, 0o600); err != nil {
		return err
	}
	p, err := a.client.Start(mesh.Command{
		Path: "/proc/self/exe", Args: []string{partArgument, witnessPart, fmt.Sprintf("-at=%s:%d", serviceAddr.Addr(), pingPort)},
		LogFile: filepath.Join(a.dir, "witness.log"),
	})
	if err != nil {
		return err
	}
	a.seen = p.Log
	return a.wait(ctx, time.Second)
}

// serve starts the server, and waits until it can be reached within its pod.
func (b *bed) serve(ctx context.Context, dir string) error {
	_, err := b.server.Start(mesh.Command{
		Path: "/proc/self/exe", Args: []string{partArgument, servePart, fmt.Sprintf("-at=%s:%d", b.server.Addr, pingTarget)},
		LogFile: filepath.Join(dir, "serve.log"),
	})
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	return app.Retry(limited, pollEvery, func() error {
		conn, err := b.server.Dial(limited, netip.AddrPortFrom(b.server.Addr, pingTarget))
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// wait lets time pass without looking at what the witness sees.
func (a *attacks) wait(ctx context.Context, length time.Duration) error {
	_, err := a.look(ctx, length)
	return err
}

// look returns what the witness sees in a time from now on.
func (a *attacks) look(ctx context.Context, length time.Duration) (slot, error) {
	a.lines = a.seen.Len() + 1 // the first is of the time before
	var all slot
	limited, cancel := context.WithTimeout(ctx, length+readyLimit)
	defer cancel()
	for range max(1, int(length/slotTime)) {
		line, err := a.seen.Await(limited, a.lines, func(string) bool { return true })
		if err != nil {
			return slot{}, fmt.Errorf("wait for the witness: %w", err)
		}
		a.lines++
		var one slot
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			return slot{}, fmt.Errorf("the witness says %q", line)
		}
		all.add(one)
	}
	return all, nil
}

// outcome is what there is to tell of one attack.
type outcome struct {
	quiet, attacked slot
	ratios          []float64 // of the 99th percentile of pings, one of each turn
	newRatios       []float64 // of new connections
	before, peak    int       // KiB
	progress        attack.Progress
}

func (a *attacks) measure(ctx context.Context, one *attack.Attack) (bool, error) {
	var o outcome
	victim := a.ztunnels[1].PID()
	for turn := range attackTurns {
		quiet, err := a.look(ctx, a.length)
		if err != nil {
			return false, err
		}
		if turn == 0 {
			if o.before, err = resetPeak(victim); err != nil {
				return false, err
			}
		}
		attacked, err := a.during(ctx, one, &o.progress)
		if err != nil {
			return false, err
		}
		o.ratios = append(o.ratios, a.ratio(attacked.Pings, quiet.Pings))
		o.newRatios = append(o.newRatios, a.ratio(attacked.Connects, quiet.Connects))
		o.quiet.add(quiet)
		o.attacked.add(attacked)
		if err := a.wait(ctx, recovery); err != nil {
			return false, err
		}
	}
	var err error
	if o.peak, err = peakSize(victim); err != nil {
		return false, err
	}
	return a.tell(one, &o), nil
}

// ratio compares the 99th percentiles of what was seen in an attack and in quiet.
// If nothing came back in the attack, something took longer than the turn.
func (a *attacks) ratio(attacked, quiet []int64) float64 {
	if len(attacked) == 0 {
		attacked = []int64{a.length.Microseconds()}
	}
	return percentile(attacked, 99) / percentile(quiet, 99)
}

// during attacks, and returns what the witness sees meanwhile.
func (a *attacks) during(ctx context.Context, one *attack.Attack, progress *attack.Progress) (slot, error) {
	from := a.outside.Pod
	switch one.From {
	case attack.Inside:
		from = a.server.Pod
	case attack.Beside:
		from = a.ztunnels[1].Pod
	}
	a.attempts++
	p, err := from.Start(mesh.Command{
		Path: "/proc/self/exe",
		Args: []string{
			partArgument, attackPart, "-name=" + one.Name, "-target=" + a.target, fmt.Sprintf("-share=%g", attackShare),
			fmt.Sprintf("-length=%s", attackWarmup+a.length+time.Second),
		},
		LogFile: filepath.Join(a.dir, fmt.Sprintf("attack-%d.log", a.attempts)),
	})
	if err != nil {
		return slot{}, err
	}
	defer p.Close() //nolint:errcheck // it has told its last, or never will
	if err := a.wait(ctx, attackWarmup); err != nil {
		return slot{}, err
	}
	seen, err := a.look(ctx, a.length)
	if err != nil {
		return slot{}, err
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return slot{}, err
	}
	limited, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	line, err := p.Log.Await(limited, 0, func(string) bool { return true })
	if err != nil {
		return slot{}, fmt.Errorf("wait for the attacker: %w", err)
	}
	var did attack.Progress
	if err := json.Unmarshal([]byte(line), &did); err != nil {
		return slot{}, fmt.Errorf("the attacker says %q", line)
	}
	progress.Units += did.Units
	progress.Connections += did.Connections
	progress.Elapsed += did.Elapsed
	return seen, nil
}

func (a *attacks) header() {
	fmt.Fprintf(a.out, "  %-30s %s\n", "", "round trips, µs: quiet p50, p99; attack p50, p99; ratio of p99 (turns)   new connections, µs: the same   RSS MiB: before, peak   rate of the attack")
}

// tell prints and keeps an outcome, and returns whether it is a good one.
func (a *attacks) tell(one *attack.Attack, o *outcome) bool {
	ratio, fresh := middle(o.ratios), middle(o.newRatios)
	seconds := o.progress.Elapsed.Seconds()
	ok := ratio <= mostSlower && o.attacked.Failed == 0 && o.peak-o.before <= mostMemory && len(o.attacked.Pings) > 0
	verdict := "✓"
	if !ok {
		verdict = "✗"
	}
	fmt.Fprintf(a.out, "%s %-30s %5.0f %6.0f  %5.0f %6.0f  × %-5.2f (%.1f–%.1f)   %5.0f %6.0f  %5.0f %6.0f  × %-5.2f   %4d %4d   %.0f %s/s, %.0f connections/s",
		verdict, one.Name, percentile(o.quiet.Pings, 50), percentile(o.quiet.Pings, 99), percentile(o.attacked.Pings, 50), percentile(o.attacked.Pings, 99),
		ratio, slices.Min(o.ratios), slices.Max(o.ratios),
		percentile(o.quiet.Connects, 50), percentile(o.quiet.Connects, 99), percentile(o.attacked.Connects, 50), percentile(o.attacked.Connects, 99), fresh,
		o.before>>10, o.peak>>10, float64(o.progress.Units)/seconds, one.Unit, float64(o.progress.Connections)/seconds)
	if o.quiet.Failed+o.attacked.Failed > 0 {
		fmt.Fprintf(a.out, "   %d failed in quiet, %d in the attack, the last: %s", o.quiet.Failed, o.attacked.Failed, cmp.Or(o.attacked.LastErr, o.quiet.LastErr))
	}
	fmt.Fprintln(a.out)
	for name, value := range map[string]float64{
		"quiet_p50_us": percentile(o.quiet.Pings, 50), "quiet_p99_us": percentile(o.quiet.Pings, 99),
		"attack_p50_us": percentile(o.attacked.Pings, 50), "attack_p99_us": percentile(o.attacked.Pings, 99), "p99_ratio": ratio,
		"new_quiet_p99_us": percentile(o.quiet.Connects, 99), "new_attack_p99_us": percentile(o.attacked.Connects, 99), "new_p99_ratio": fresh,
		"failed": float64(o.attacked.Failed), "rss_before_kib": float64(o.before), "rss_peak_kib": float64(o.peak),
		"rate": float64(o.progress.Units) / seconds,
	} {
		a.figures[strings.ReplaceAll(one.Name, " ", "_")+"."+name] = value
	}
	return ok
}

// percentile is the q-th of values, at least 1 so that it can divide.
func percentile(values []int64, q int) float64 {
	if len(values) == 0 {
		return 1
	}
	sorted := slices.Sorted(slices.Values(values))
	return float64(max(1, sorted[min(len(sorted)-1, len(sorted)*q/100)]))
}
