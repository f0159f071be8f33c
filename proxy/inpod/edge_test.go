package inpod

import (
	"testing"
	"testing/synctest"
	"time"
)

// A pod that could be served only at a later attempt was started once.
func TestSession_RetryIsStartedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := begun(t)
		w.pods.failing("late", errTaken)
		a.want("failure to start proxy : "+errTaken.Error(), a.exchange(add("late"), openNetns(t, w.dir, "1")))
		if n := w.metrics.starts.Load(); n != 0 {
			t.Errorf("%d proxies were counted as started, want none", n)
		}
		w.pods.failing("late", nil)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		wantList(t, "dump", w.dumped(), "late Up")
		if n := w.metrics.starts.Load(); n != 1 {
			t.Errorf("%d proxies were counted as started, want 1", n)
		}
	})
}

// The end of an older proxy of a pod, whenever it comes, is not that of the pod.
func TestSession_OldProxyEndsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := begun(t)
		a.want("", a.exchange(snapshot()))
		a.want("", a.exchange(add("a"), openNetns(t, w.dir, "1")))
		old := w.pods.started()[0]
		old.mu.Lock()
		old.ended = true // Drain ends it no more
		old.mu.Unlock()
		a.want("", a.exchange(add("a"), openNetns(t, w.dir, "2")))
		wantList(t, "dump while the old proxy ends", w.dumped(), "a Up")
		_ = old.netns.Close()
		close(old.done)
		synctest.Wait()
		if n := w.metrics.stopped.Load(); n != 1 {
			t.Errorf("%d proxies were counted as stopped, want the old one", n)
		}
		wantList(t, "dump after its end", w.dumped(), "a Up")
		a.want("", a.exchange(del("a")))
		wantList(t, "dump after the pod's end", w.dumped())
	})
}
