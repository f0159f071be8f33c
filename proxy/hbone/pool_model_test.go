package hbone

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// poolOp is one step of the model test. Arg chooses a key or tunnel.
type poolOp struct {
	Kind string
	Arg  int
}

// poolModel is the obvious pool: a list of all tunnels ever made, searched from
// the front.
type poolModel struct {
	cfg     PoolConfig
	tunnels []*modelTunnel
	uses    int
}

type modelTunnel struct {
	key     Key
	active  int
	limit   int
	used    time.Time
	use     int  // the same, in order
	pooled  bool // handed out
	usable  bool
	expects bool // its next request fails unprocessed
}

func (m *poolModel) free(t *modelTunnel, key Key) bool {
	return t.pooled && t.usable && t.key == key && t.active < min(m.cfg.MaxStreams, t.limit)
}

// settle lets time pass and drops what is of no use.
func (m *poolModel) settle(now time.Time) {
	for _, t := range m.tunnels {
		if !now.Before(t.used.Add(m.cfg.UnusedTimeout)) {
			t.pooled = false
		}
	}
}

// make adds a tunnel, and drops the least recently used one if there are too
// many. Those of no use are the first to go, so they do not count.
func (m *poolModel) make(key Key, now time.Time) *modelTunnel {
	// Tunnels of the key that are of no use were found by the request.
	m.uses++
	t := &modelTunnel{key: key, limit: 1000, used: now, use: m.uses, pooled: true, usable: true}
	m.tunnels = append(m.tunnels, t)
	var oldest *modelTunnel
	n := 0
	for _, t := range m.tunnels {
		if t.pooled && t.usable {
			n++
			if oldest == nil || t.use < oldest.use {
				oldest = t
			}
		}
	}
	if n > m.cfg.MaxEntries {
		oldest.pooled = false
	}
	return t
}

// open is what a request should do; it reports whether it should succeed.
func (m *poolModel) open(key Key, now time.Time) bool {
	for _, t := range m.tunnels {
		if t.key == key && !t.usable {
			t.pooled = false
		}
	}
	for _, t := range m.tunnels {
		if !m.free(t, key) {
			continue
		}
		m.uses++
		t.used, t.use = now, m.uses
		if t.expects {
			t.expects = false
			break // sent again on a fresh tunnel
		}
		t.active++
		return true
	}
	m.make(key, now).active++
	return true
}

// TestPoolModel drives the pool and the model with the same random operations,
// one after another, and compares the tunnels after each.
func TestPoolModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ops := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) poolOp {
			kind := rapid.SampledFrom([]string{"open", "open", "open", "end", "goaway", "limit", "unprocessed", "sleep", "nap"})
			return poolOp{kind.Draw(rt, "kind"), rapid.IntRange(0, 7).Draw(rt, "arg")}
		}), 1, 60).Draw(rt, "ops")
		var err error
		synctest.Test(t, func(t *testing.T) { err = runPoolModel(t.Context(), ops) })
		if err != nil {
			rt.Fatal(err)
		}
	})
}

func runPoolModel(ctx context.Context, ops []poolOp) error {
	cfg := PoolConfig{MaxStreams: 2, MaxEntries: 4, UnusedTimeout: time.Second}
	failing := map[*fakeTunnel]bool{}
	net := &fakeNet{most: cfg.MaxStreams}
	net.onOpen = func(f *fakeTunnel) func(context.Context) error {
		return func(context.Context) error {
			if failing[f] {
				delete(failing, f)
				return unprocessed("refused")
			}
			return nil
		}
	}
	p := newPool(cfg, net.dial)
	defer p.Close()
	m := &poolModel{cfg: cfg}
	for i, op := range ops {
		synctest.Wait()
		m.settle(time.Now())
		if err := m.step(ctx, op, p, net, failing); err != nil {
			return fmt.Errorf("step %d: %v: %w", i, op, err)
		}
		synctest.Wait()
		if err := m.compare(p, net); err != nil {
			return fmt.Errorf("after step %d: %v: %w", i, op, err)
		}
	}
	return nil
}

// step applies one operation to both.
func (m *poolModel) step(ctx context.Context, op poolOp, p *Pool, net *fakeNet, failing map[*fakeTunnel]bool) error {
	var real *fakeTunnel
	var model *modelTunnel
	if n := len(m.tunnels); n > 0 {
		real, model = net.list()[op.Arg%n], m.tunnels[op.Arg%n]
	}
	switch op.Kind {
	case "open":
		key := testKey(op.Arg % 3)
		want := m.open(key, time.Now())
		if _, err := p.Open(ctx, key, &Request{}); (err == nil) != want {
			return fmt.Errorf("Open = %w, want success %v", err, want)
		}
	case "sleep":
		time.Sleep(m.cfg.UnusedTimeout * 3 / 4)
		m.settle(time.Now())
	case "nap":
		time.Sleep(m.cfg.UnusedTimeout / 4)
		m.settle(time.Now())
	}
	if real == nil {
		return nil
	}
	switch op.Kind {
	case "end":
		if model.active > 0 {
			model.active--
			real.end(1)
		}
	case "goaway":
		model.usable = false
		real.fail()
	case "limit":
		model.limit = 1
		real.setLimit(1)
	case "unprocessed":
		if model.pooled && model.usable {
			model.expects, failing[real] = true, true
		}
	}
	return nil
}

// compare checks that both have the same tunnels in the same state.
func (m *poolModel) compare(p *Pool, net *fakeNet) error {
	real := net.list()
	if len(real) != len(m.tunnels) {
		return fmt.Errorf("%d tunnels dialled, want %d", len(real), len(m.tunnels))
	}
	streams, pooled := 0, 0
	for i, f := range real {
		t := m.tunnels[i]
		if f.broken != nil {
			return f.broken
		}
		if f.key != t.key || f.Active() != t.active {
			return fmt.Errorf("tunnel %d has key %v and %d streams, want %v and %d", i, f.key, f.Active(), t.key, t.active)
		}
		// One of no use is closed when the pool comes across it.
		if t.usable && f.closed == t.pooled {
			return fmt.Errorf("tunnel %d closed = %v, want %v", i, f.closed, !t.pooled)
		}
		if f.ended() && f.active > 0 {
			return errors.New("a tunnel with streams has ended")
		}
		if !f.ended() {
			streams += t.active
		}
		if t.pooled && t.usable {
			pooled++
		}
	}
	if pooled > m.cfg.MaxEntries {
		return fmt.Errorf("%d tunnels in the pool, want at most %d", pooled, m.cfg.MaxEntries)
	}
	if s := p.Stats(); s.Streams != streams {
		return fmt.Errorf("Stats().Streams = %d, want %d", s.Streams, streams)
	}
	return nil
}
