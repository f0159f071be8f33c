package inpod

import (
	"log/slog"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"ztunnel/proxy/api/zdsapi"
)

// model is what the specification says of the pods, told in its words.
type model struct {
	snapshot bool
	named    map[string]bool
	running  map[string]string // uid → namespace
	pending  map[string]string
}

// message changes the model and tells how the message ends: "", "start" or "protocol".
func (m *model) message(kind, uid, netns string, failing bool) string {
	switch kind {
	case "add":
		if !m.snapshot {
			m.named[uid] = true
		}
		if m.running[uid] == netns {
			return ""
		}
		delete(m.running, uid)
		if failing {
			m.pending[uid] = netns
			return "start"
		}
		m.running[uid] = netns
		delete(m.pending, uid)
	case "keep":
		if m.snapshot {
			return "protocol"
		}
		m.named[uid] = true
	case "del":
		delete(m.pending, uid)
		if m.snapshot {
			delete(m.running, uid)
		} else {
			delete(m.named, uid)
		}
	case "snapshot":
		if m.snapshot {
			return "protocol"
		}
		maps.DeleteFunc(m.running, func(uid, _ string) bool { return !m.named[uid] })
		m.named, m.snapshot = map[string]bool{}, true
	}
	return ""
}

func (m *model) connect() {
	m.snapshot, m.named, m.pending = false, map[string]bool{}, map[string]string{}
}

func (m *model) retry(failing map[string]bool) {
	for uid, netns := range m.pending {
		if !failing[uid] {
			m.running[uid] = netns
			delete(m.pending, uid)
		}
	}
}

func outcome(err error) string {
	switch err.(type) { //nolint:errorlint // obey does not wrap them
	case nil:
		return ""
	case *startError:
		return "start"
	}
	return "protocol"
}

// Whatever comes in whatever order, the pods are those of the model, and every namespace that is not in use is closed.
func TestStates_Model(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		pods := &fakePods{}
		var metrics counters
		s := newStates(pods, slog.New(slog.DiscardHandler), &metrics)
		m := &model{named: map[string]bool{}, running: map[string]string{}, pending: map[string]string{}}
		failing := map[string]bool{}
		uids := rapid.SampledFrom([]string{"a", "b", "c"})
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			uid := uids.Draw(rt, "uid")
			step := rapid.SampledFrom([]string{"add", "add", "keep", "del", "snapshot", "connect", "retry", "toggle"}).Draw(rt, "step")
			switch step {
			case "connect":
				s.newSession()
				m.connect()
			case "retry":
				s.retryPending(t.Context())
				m.retry(failing)
			case "toggle":
				failing[uid] = !failing[uid]
				pods.failing(uid, nil)
				if failing[uid] {
					pods.failing(uid, errTaken)
				}
			default:
				netns := rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "netns")
				msg := &message{WorkloadRequest: map[string]*zdsapi.WorkloadRequest{
					"add": add(uid), "keep": keep(uid), "del": del(uid), "snapshot": snapshot(),
				}[step]}
				if step == "add" {
					msg.netns = openNetns(t, dir, netns)
				}
				got := outcome(s.obey(t.Context(), msg))
				msg.close()
				if want := m.message(step, uid, netns, failing[uid]); got != want {
					rt.Fatalf("%s %s ends with %q, want %q", step, uid, got, want)
				}
			}
			compare(rt, s, m, pods)
			if open, want := leftOpen(t, dir), len(m.running)+len(m.pending); open != want {
				rt.Fatalf("%d namespaces are open, want %d", open, want)
			}
		}
		s.drain(t.Context())
		if open := leftOpen(t, dir); open != 0 || int(metrics.stopped.Load()) != len(pods.started()) {
			rt.Fatalf("%d namespaces are left open, %d of %d proxies counted as stopped", open, metrics.stopped.Load(), len(pods.started()))
		}
	})
}

func compare(rt *rapid.T, s *states, m *model, pods *fakePods) {
	rt.Helper()
	running := slices.Sorted(maps.Keys(m.running))
	if got := slices.Sorted(maps.Keys(s.running)); !slices.Equal(got, running) {
		rt.Fatalf("running %v, want %v", got, running)
	}
	if live := pods.live(); !slices.Equal(live, running) {
		rt.Fatalf("proxies of %v, want of %v", live, running)
	}
	if got, want := slices.Sorted(maps.Keys(s.pending)), slices.Sorted(maps.Keys(m.pending)); !slices.Equal(got, want) {
		rt.Fatalf("pending %v, want %v", got, want)
	}
	if got, want := s.ready(), m.snapshot && len(m.pending) == 0; got != want {
		rt.Fatalf("ready %t, want %t", got, want)
	}
}
