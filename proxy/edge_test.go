package proxy

import (
	"testing"
	"time"

	"ztunnel/proxy/needs"
	"ztunnel/proxy/proxytest"
)

// Nobody watches the policies for a pod that has drained.
func TestEdge_DrainEndsTheWatch(t *testing.T) {
	w := newNode(t)
	w.open(t, time.Minute, nil)
	watched := func() int { return len(w.watcher.all()) }
	proxytest.Until(t, "the pod is watched", func() bool { return watched() == 1 })
	begin := time.Now()
	close(w.drain)
	w.ended(t)
	if n := watched(); n != 0 {
		t.Errorf("%d pods are watched after the end, want none", n)
	}
	if took := time.Since(begin); took > 5*time.Second { // far from the deadline
		t.Errorf("the end took %v, want it at once", took)
	}
}

// In a pod's namespace there are the listeners of the pod, and none of the
// process.
func TestEdge_OnlyThePodsPorts(t *testing.T) {
	needs.Root(t)
	w, ps := newPods(t)
	ns := netns(t)
	w.start(t, ps, ns)
	wantPorts(t, ns, "127.0.0.1", 4)
	for _, ip := range []string{"127.0.0.1", "::1"} {
		if open := listening(t, ns, ip, 15000, 15020, 15021, 15080); len(open) != 0 {
			t.Errorf("listening at %s: %v, want none of the process", ip, open)
		}
	}
}
