package inpod

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"ztunnel/proxy/proxytest"
)

// While no session can begin the node is not ready, and becomes so with the first that does.
func TestRun_NotReadyWithoutASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		accept := w.connections(t)
		later, broken := w.dial, 3
		w.dial = func(ctx context.Context) (packetConn, error) {
			if broken == 0 {
				return later(ctx)
			}
			broken--
			return closedConn{}, nil
		}
		w.run(t)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := w.log.Count("ERROR node agent announcement failed (could not announce to node agent: broken pipe)"); n != 3 {
			t.Errorf("%d failed announcements in the log, want 3", n)
		}
		if w.isReady() {
			t.Error("ready without a session")
		}
		a := accept()
		a.hello()
		a.want("", a.exchange(snapshot()))
		if !w.isReady() {
			t.Error("not ready after a snapshot")
		}
	})
}

// A pod that is deleted after the snapshot can come back in the same namespace, and one that failed is not tried any more.
func TestSession_ComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := begun(t)
		a.want("", a.exchange(snapshot()))
		for range 3 {
			a.want("", a.exchange(add("a"), openNetns(t, w.dir, "1")))
			wantList(t, "dump", w.dumped(), "a Up")
			a.want("", a.exchange(del("a")))
			wantList(t, "dump", w.dumped())
		}
		w.pods.failing("a", errTaken)
		a.exchange(add("a"), openNetns(t, w.dir, "1"))
		a.want("", a.exchange(del("a")))
		w.pods.failing("a", nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		wantList(t, "dump a minute later", w.dumped())
		if n := len(w.pods.started()); n != 3 {
			t.Errorf("%d proxies were started, want 3", n)
		}
		if !w.isReady() {
			t.Error("not ready although nothing is pending")
		}
	})
}

// Before the snapshot is complete, deletion ends neither what runs nor the session; the end of the snapshot does the former.
func TestSession_DeletedBeforeTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := begun(t)
		w.pods.failing("failed", errTaken)
		a.exchange(add("failed"), openNetns(t, w.dir, "1"))
		a.want("", a.exchange(add("up"), openNetns(t, w.dir, "2")))
		a.want("", a.exchange(del("failed")))
		a.want("", a.exchange(del("up")))
		a.want("", a.exchange(snapshot()))
		wantList(t, "dump", w.dumped())
		if len(w.states.named) != 0 || len(w.states.pending) != 0 {
			t.Errorf("named %v, pending %v, want neither", w.states.named, w.states.pending)
		}
		if !w.isReady() {
			t.Error("not ready although nothing is pending")
		}
	})
}

// Of a message that adds a pod only the number of its files is looked at: what kind of file it is shows when the pod is served.
func TestSocket_AnyFileIsTaken(t *testing.T) {
	path, accept := realAgent(t)
	w := newWorld(t, path)
	w.run(t)
	a := accept()
	a.hello()
	device, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	a.want("", a.exchange(add("a"), device))
	a.want("", a.exchange(snapshot()))
	proxytest.Until(t, "it is ready", w.isReady)
	p := w.pods.started()[0]
	if got, want := p.info, (Info{"name-a", "ns", "sa"}); got != want {
		t.Errorf("info %+v, want %+v", got, want)
	}
}
