package measure

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/control"
	"ztunnel/loadtest/mesh"
	"ztunnel/proxy/api/workloadapi"
)

const (
	// namePort is where the name server outside of the mesh listens.
	namePort = 53
	// askLimit is how long a name may take until it is known.
	askLimit = 10 * time.Second
	// lostPart: one question of so many may be lost.
	lostPart = 50
)

// nameClass is one kind of name.
type nameClass struct {
	name, question string
	want           netip.Addr
}

// names is a running measure of names.
type names struct {
	*bed
	dir      string
	rate     int
	length   time.Duration
	client   *cluster.Pod
	upstream netip.Addr
	db       netip.Addr // endpoint of the headless service
	figures  map[string]float64
	only     string // part of the names of the classes to measure
	asked    int
}

// wildAddr is the address of the service with a wildcard for a name.
var wildAddr = netip.AddrFrom4([4]byte{10, 96, 0, 20})

// Names measures what questions for names cost the ztunnel of the pod that asks:
// processor time, and how long an answer takes, over UDP at Config.Rate questions
// a second, for each kind of name in turn:
//
//   - a service by its whole name, by one that a stub resolver has appended its
//     first search domain to, and by a name that a wildcard covers, and a headless
//     service: the mesh knows these;
//   - a name outside of it, once asked again and again and once another one each
//     time, which a server on the same node answers.
//
// All is well if every answer was right, and hardly a question had none: UDP
// loses some where a process does not get the processor for a while.
func Names(ctx context.Context, c Config) (*Result, error) {
	n := &names{dir: c.Dir, rate: c.Rate, length: c.For, only: c.Only, figures: map[string]float64{}}
	if err := n.build(ctx, c); err != nil {
		return nil, err
	}
	defer n.Close() //nolint:errcheck // the figures are there
	ok, some := true, false
	for _, class := range n.classes() {
		if !strings.Contains(class.name, n.only) {
			continue
		}
		fine, err := n.measure(ctx, class)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", class.name, err)
		}
		ok, some = ok && fine, true
	}
	if !some {
		return nil, fmt.Errorf("there is no kind of name with %q in its name", n.only)
	}
	return &Result{Measure: "names", OK: ok, Figures: n.figures}, nil
}

func (n *names) classes() []nameClass {
	return []nameClass{
		{"service", "echo.servers.svc.cluster.local.", serviceAddr.Addr()},
		{"search domain", "echo.servers.clients.svc.cluster.local.", serviceAddr.Addr()},
		{"wildcard", "shop.wild.example.org.", wildAddr},
		{"headless", "db.servers.svc.cluster.local.", n.db},
		{"outside, the same", "www.example.org.", outsideAddr},
		{"outside, each new", "host-%d.example.org.", outsideAddr},
	}
}

// build makes a bed whose ztunnels know the name server outside, and what names
// there are. After an error there is nothing to close.
func (n *names) build(ctx context.Context, c Config) error {
	var err error
	n.bed, err = newBed(ctx, c, setting{nameserver: true})
	if err != nil {
		return err
	}
	n.client = n.bed.client
	if err := n.populate(ctx); err != nil {
		_ = n.Close() // the other error counts
		return err
	}
	return nil
}

func (n *names) populate(ctx context.Context) error {
	ports := []control.Port{{Port: echoPort, Target: echoTarget}}
	wild := control.Service(control.ServiceSpec{Namespace: "servers", Name: "wild", VIPs: []netip.Addr{wildAddr}, Ports: ports})
	wild.Hostname, wild.Canonical = "*.wild.example.org", false
	headless := control.Service(control.ServiceSpec{Namespace: "servers", Name: "db", Ports: ports})
	if err := n.Plane.Update(control.Update{Services: []*workloadapi.Service{wild, headless}}); err != nil {
		return err
	}
	db, err := n.nodes[1].AddPod(ctx, cluster.Spec{Name: "db-0", ID: identity("servers", "db"), Services: []*workloadapi.Service{headless}})
	if err != nil {
		return err
	}
	n.db = db.Addr
	if _, err := n.settle(ctx); err != nil {
		return err
	}
	_, err = n.outside.Start(mesh.Command{
		Path: "/proc/self/exe", Args: []string{partArgument, namesPart, "-at=" + netip.AddrPortFrom(n.outside.Addr, namePort).String()},
		LogFile: filepath.Join(n.dir, "names.log"),
	})
	n.upstream = n.outside.Addr
	return err
}

func (n *names) measure(ctx context.Context, class nameClass) (bool, error) {
	// Ready when it has answered: of the part that serves names nobody is told.
	limited, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	err := app.Retry(limited, 20*pollEvery, func() error {
		first, err := n.ask(limited, class, 50*time.Millisecond)
		if err == nil && first.Right == 0 {
			err = fmt.Errorf("%d questions, %d answers are wrong, the last: %s", first.Asked, first.Wrong, cmp.Or(first.LastWrong, "none came"))
		}
		return err
	})
	if err != nil {
		fmt.Fprintf(n.out, "✗ %-20s %v\n", class.name, err)
		return false, nil
	}
	pid := n.ztunnels[0].PID()
	before, err := processorTime(pid)
	if err != nil {
		return false, err
	}
	said, err := n.ask(ctx, class, n.length)
	if err != nil {
		return false, err
	}
	after, err := processorTime(pid)
	if err != nil {
		return false, err
	}
	h, err := hdrhistogram.Decode([]byte(said.Times))
	if err != nil {
		return false, err
	}
	return n.tell(class, said, h, after-before), nil
}

// ask lets a process in the client's pod ask for a time.
func (n *names) ask(ctx context.Context, class nameClass, length time.Duration) (*said, error) {
	n.asked++
	p, err := n.client.Start(mesh.Command{
		Path: "/proc/self/exe",
		Args: []string{
			partArgument, askPart, "-at=" + netip.AddrPortFrom(n.upstream, namePort).String(), "-name=" + class.question, "-want=" + class.want.String(),
			fmt.Sprintf("-rate=%d", n.rate), fmt.Sprintf("-length=%s", length),
		},
		LogFile: filepath.Join(n.dir, fmt.Sprintf("ask-%d.log", n.asked)),
	})
	if err != nil {
		return nil, err
	}
	defer p.Close() //nolint:errcheck // it has told its last, or never will
	limited, cancel := context.WithTimeout(ctx, length+readyLimit)
	defer cancel()
	line, err := p.Log.Await(limited, 0, func(string) bool { return true })
	if err != nil {
		return nil, fmt.Errorf("wait for who asks: %w", err)
	}
	var s said
	if err := json.Unmarshal([]byte(line), &s); err != nil {
		return nil, fmt.Errorf("who asks says %q", line)
	}
	return &s, nil
}

func (n *names) tell(class nameClass, s *said, h *hdrhistogram.Histogram, used time.Duration) bool {
	ok := s.Wrong == 0 && s.Right > 0 && s.Lost*lostPart <= s.Asked
	verdict := "✓"
	if !ok {
		verdict = "✗"
	}
	perSecond := float64(s.Right) / max(userTick, used).Seconds()
	fmt.Fprintf(n.out, "%s %-20s %6d asked, %d wrong, %d lost   p50 %5d µs  p99 %6d µs   %7.0f answers per second of processor time", verdict, class.name,
		s.Asked, s.Wrong, s.Lost, h.ValueAtQuantile(50), h.ValueAtQuantile(99), perSecond)
	if s.LastWrong != "" {
		fmt.Fprintf(n.out, "   the last wrong one: %s", s.LastWrong)
	}
	fmt.Fprintln(n.out)
	key := strings.NewReplacer(",", "", " ", "_").Replace(class.name) + "."
	n.figures[key+"p50_us"], n.figures[key+"p99_us"] = float64(h.ValueAtQuantile(50)), float64(h.ValueAtQuantile(99))
	n.figures[key+"per_cpu_second"] = perSecond
	n.figures[key+"wrong"], n.figures[key+"lost"] = float64(s.Wrong), float64(s.Lost)
	return ok
}
