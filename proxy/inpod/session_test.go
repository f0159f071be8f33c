package inpod

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"ztunnel/proxy/api/zdsapi"
)

// Pods of the snapshot are served as they come; ready is who has all of it.
func TestSession_SnapshotThenChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		accept := w.connections(t)
		end := w.run(t)
		a := accept()
		a.hello()
		a.want("", a.exchange(add("a"), openNetns(t, w.dir, "1")))
		a.want("", a.exchange(add("b"), openNetns(t, w.dir, "2")))
		if w.isReady() {
			t.Error("ready before the snapshot is complete")
		}
		wantList(t, "dump", w.dumped(), "a Up", "b Up")
		a.want("", a.exchange(snapshot()))
		if !w.isReady() {
			t.Error("not ready after the snapshot")
		}
		a.want("", a.exchange(add("a"), openNetns(t, w.dir, "1"))) // again
		if n := len(w.pods.started()); n != 2 {
			t.Errorf("%d proxies were started, want 2", n)
		}
		a.want("", a.exchange(add("c"), openNetns(t, w.dir, "3")))
		a.want("", a.exchange(del("b")))
		a.want("", a.exchange(del("unknown")))
		wantList(t, "served", w.pods.live(), "a", "c")
		b := w.pods.started()[1]
		if b.immediate != 1 || b.graceful != 0 {
			t.Errorf("a deleted pod was drained %d times at once, %d with grace, want once at once", b.immediate, b.graceful)
		}
		if err := end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		if w.isReady() {
			t.Error("ready after the end")
		}
		if c := w.pods.started()[2]; c.graceful != 1 {
			t.Errorf("a pod was drained %d times with grace, want once", c.graceful)
		}
		wantList(t, "dump after the end", w.dumped())
		if n := leftOpen(t, w.dir); n != 0 {
			t.Errorf("%d namespaces are left open", n)
		}
	})
}

// A pod that comes in another namespace replaces the old one.
func TestSession_NewNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := begun(t)
		a.want("", a.exchange(snapshot()))
		a.want("", a.exchange(add("a"), openNetns(t, w.dir, "1")))
		a.want("", a.exchange(add("a"), openNetns(t, w.dir, "2")))
		wantList(t, "served", w.pods.live(), "a")
		if first := w.pods.started()[0]; first.immediate != 1 {
			t.Error("the proxy in the old namespace was not ended")
		}
		synctest.Wait()
		if n := w.metrics.stopped.Load(); n != 1 {
			t.Errorf("%d proxies were counted as stopped, want 1", n)
		}
	})
}

// A pod that cannot be served is refused and tried again after five seconds, and a message that comes meanwhile is not lost.
func TestSession_PendingIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := begun(t)
		w.pods.failing("late", errTaken)
		begin := time.Now()
		a.want("failure to start proxy : "+errTaken.Error(), a.exchange(add("late"), openNetns(t, w.dir, "1")))
		a.want("", a.exchange(snapshot()))
		if w.isReady() {
			t.Error("ready with a pod that is pending")
		}
		wantList(t, "dump", w.dumped(), "late Pending")
		time.Sleep(4900 * time.Millisecond)
		a.want("", a.exchange(add("other"), openNetns(t, w.dir, "2"))) // does not put off the retry
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if n := w.log.Count("INFO retrying workload", "uid=late"); n != 1 {
			t.Errorf("%d retries after %v, want 1", n, time.Since(begin))
		}
		w.pods.failing("late", nil)
		time.Sleep(4700 * time.Millisecond)
		synctest.Wait()
		wantList(t, "dump before the second retry", w.dumped(), "late Pending", "other Up")
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		wantList(t, "dump", w.dumped(), "late Up", "other Up")
		if !w.isReady() {
			t.Error("not ready although nothing is pending any more")
		}
		time.Sleep(time.Minute)
		a.want("", a.exchange(del("other")))
		if n := w.log.Count("INFO retrying workload"); n != 2 {
			t.Errorf("%d retries, want 2", n)
		}
	})
}

// An addition that fails after the snapshot does not withdraw readiness; the next message does.
func TestSession_LateFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := begun(t)
		a.want("", a.exchange(snapshot()))
		w.pods.failing("late", errTaken)
		a.exchange(add("late"), openNetns(t, w.dir, "1"))
		if !w.isReady() {
			t.Error("not ready after a pod that failed")
		}
		a.want("", a.exchange(del("unknown")))
		if w.isReady() {
			t.Error("ready after another message while a pod is pending")
		}
		a.want("", a.exchange(add("late-not"), openNetns(t, w.dir, "2")))
		w.pods.failing("late", nil)
		a.want("", a.exchange(add("late"), openNetns(t, w.dir, "3"))) // in another namespace
		if !w.isReady() {
			t.Error("not ready although nothing is pending")
		}
		time.Sleep(10 * time.Second)
		if n := len(w.pods.started()); n != 2 {
			t.Errorf("%d proxies were started, want 2: the pending one must not come back", n)
		}
	})
}

// Who is deleted is not pending any more, before the end of the snapshot too.
func TestSession_PendingIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := begun(t)
		w.pods.failing("x", errTaken)
		a.exchange(add("x"), openNetns(t, w.dir, "1"))
		a.want("", a.exchange(del("x")))
		a.want("", a.exchange(snapshot()))
		if !w.isReady() {
			t.Error("not ready although the pending pod was deleted")
		}
		a.exchange(add("x"), openNetns(t, w.dir, "1"))
		a.want("", a.exchange(del("x")))
		wantList(t, "dump", w.dumped())
		if n := leftOpen(t, w.dir); n != 0 {
			t.Errorf("%d namespaces are left open", n)
		}
	})
}

// Pods go on without an agent, and the next snapshot says which stay.
func TestSession_Reconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		accept := w.connections(t)
		w.run(t)
		a := accept()
		a.hello()
		for _, uid := range []string{"gone", "kept", "moved", "same"} {
			a.want("", a.exchange(add(uid), openNetns(t, w.dir, uid)))
		}
		w.pods.failing("pending", errTaken)
		a.exchange(add("pending"), openNetns(t, w.dir, "pending"))
		a.want("", a.exchange(snapshot()))
		_ = a.conn.Close()
		synctest.Wait()
		if w.isReady() {
			t.Error("ready without an agent")
		}
		wantList(t, "served without an agent", w.pods.live(), "gone", "kept", "moved", "same")
		a = accept()
		a.hello()
		wantList(t, "dump", w.dumped(), "gone Up", "kept Up", "moved Up", "same Up")
		a.want("", a.exchange(keep("kept")))
		a.want("", a.exchange(keep("never seen")))
		a.want("", a.exchange(add("same"), openNetns(t, w.dir, "same")))
		a.want("", a.exchange(add("moved"), openNetns(t, w.dir, "elsewhere")))
		wantList(t, "served before the snapshot is complete", w.pods.live(), "gone", "kept", "moved", "same")
		a.want("", a.exchange(snapshot()))
		wantList(t, "served", w.pods.live(), "kept", "moved", "same")
		if !w.isReady() {
			t.Error("not ready after the snapshot")
		}
		if n := len(w.pods.started()); n != 5 {
			t.Errorf("%d proxies were started, want 5", n)
		}
	})
}

// A message that breaks the protocol is refused, and ends the process.
func TestSession_Violations(t *testing.T) {
	noInfo := &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Add{Add: &zdsapi.AddWorkload{Uid: "x"}}}
	for reason, m := range map[string]*zdsapi.WorkloadRequest{
		"workload_info is required but not present": noInfo,
		"pod keep received after snapshot":          keep("x"),
		"pod snapshot received already":             snapshot(),
	} {
		t.Run(reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "")
				accept := w.connections(t)
				end := w.run(t)
				a := accept()
				a.hello()
				a.want("", a.exchange(add("a"), openNetns(t, w.dir, "1")))
				a.want("", a.exchange(snapshot()))
				if m == noInfo {
					a.want("failure to process message : protocol error: "+reason, a.exchange(m, openNetns(t, w.dir, "2")))
				} else {
					a.want("failure to process message : protocol error: "+reason, a.exchange(m))
				}
				synctest.Wait()
				if err := end(); err == nil || !strings.Contains(err.Error(), reason) {
					t.Errorf("Run() = %v, want an error about %q", err, reason)
				}
				if p := w.pods.started()[0]; p.graceful != 1 {
					t.Errorf("the pods were not drained")
				}
				if n := leftOpen(t, w.dir); n != 0 {
					t.Errorf("%d namespaces are left open", n)
				}
			})
		})
	}
}

// Answers fit into the agent's buffer and can be decoded, whatever went wrong.
func TestSession_LongAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := begun(t)
		for _, text := range []string{strings.Repeat("x", 3000), strings.Repeat("€", 600), "y" + strings.Repeat("é", 1000), "bad \xff\xfe" + strings.Repeat("z", 1000)} {
			w.pods.failing("x", errors.New(text))
			got := a.exchange(add("x"), openNetns(t, w.dir, "1"))
			if len(got) < maxAnswer-3 || !utf8.ValidString(got) {
				t.Errorf("answer of %d bytes, valid %t, want about %d", len(got), utf8.ValidString(got), maxAnswer)
			}
		}
	})
	if b, err := encodeAnswer(strings.Repeat("x", 5000)); err != nil || len(b) != maxPacket {
		t.Errorf("encodeAnswer() has %d bytes, %v, want %d", len(b), err, maxPacket)
	}
	if b, err := encodeAnswer(""); err != nil || string(b) != "\x0a\x00" {
		t.Errorf("encodeAnswer() = %x, %v, want 0a00", b, err)
	}
}

// A drain stops reading, ends all pods at the same time, and waits for them. The end of the context cuts it short.
func TestRun_Drain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		w.pods.stuck = true
		accept := w.connections(t)
		drain := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx, drain) }()
		a := accept()
		a.hello()
		a.want("", a.exchange(add("a"), openNetns(t, w.dir, "1")))
		a.want("", a.exchange(add("b"), openNetns(t, w.dir, "2")))
		a.want("", a.exchange(snapshot()))
		close(drain)
		synctest.Wait()
		if w.isReady() {
			t.Error("ready while draining")
		}
		for _, p := range w.pods.started() {
			if p.graceful != 1 || p.immediate != 0 {
				t.Errorf("%s was drained %d times with grace, %d at once, want once with grace", p.uid, p.graceful, p.immediate)
			}
		}
		if _, err := a.conn.Write([]byte{0x1a, 0}); err == nil {
			t.Error("a message was read during a drain")
		}
		wantList(t, "dump while draining", w.dumped(), "a Up", "b Up")
		select {
		case err := <-done:
			t.Fatalf("Run ended before its pods: %v", err)
		default:
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		wantList(t, "dump", w.dumped())
	})
}

// The agent is looked for at growing intervals, and who asks for the end while it is away gets it.
func TestRun_AgentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "/the/path")
		var at []time.Duration
		begin := time.Now()
		w.dial = func(context.Context) (packetConn, error) {
			at = append(at, time.Since(begin))
			return nil, errors.New("no such file")
		}
		end := w.run(t)
		time.Sleep(time.Hour)
		if err := end(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		for i, want := range []time.Duration{0, 20, 60, 140, 300, 620, 1260} {
			if at[i] != want*time.Millisecond {
				t.Errorf("attempt %d after %v, want %v", i, at[i], want*time.Millisecond)
			}
		}
		if last := at[len(at)-1] - at[len(at)-2]; last != retryMax {
			t.Errorf("attempts every %v in the end, want %v", last, retryMax)
		}
		w.log.Wait(t, `WARN failed to connect to the Istio CNI node agent over "/the/path", is the node agent healthy? details: no such file. retrying in 40ms`)
	})
}

// closedConn is a connection whose other end has gone.
type closedConn struct{ packetConn }

func (closedConn) Write([]byte) (int, error)        { return 0, errors.New("broken pipe") }
func (closedConn) SetWriteDeadline(time.Time) error { return nil }
func (closedConn) Close() error                     { return nil }

// A session that cannot begin is tried again after a pause: half a second at first, much less once the node was ready.
func TestRun_AnnouncementFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		pipes := w.connections(t)
		blocking := w.dial
		broken := make(chan packetConn, 1)
		w.dial = func(ctx context.Context) (packetConn, error) {
			select {
			case c := <-broken:
				return c, nil
			default:
				return blocking(ctx)
			}
		}
		broken <- closedConn{}
		begin := time.Now()
		w.run(t)
		a := pipes()
		a.hello()
		if took := time.Since(begin); took < 400*time.Millisecond || took > 600*time.Millisecond {
			t.Errorf("the next attempt was after %v, want about 500ms", took)
		}
		w.log.Wait(t, "ERROR node agent announcement failed (could not announce to node agent: broken pipe), retrying in ")
		a.want("", a.exchange(snapshot()))
		broken <- closedConn{}
		begin = time.Now()
		_ = a.conn.Close()
		pipes().hello()
		if took := time.Since(begin); took < 4*time.Millisecond || took > 6*time.Millisecond {
			t.Errorf("after having been ready the next attempt was after %v, want about 5ms", took)
		}
	})
}

// An agent that accepts connections and ends them is not stormed.
func TestRun_UselessAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		n := 0
		w.dial = func(context.Context) (packetConn, error) {
			n++
			a, c := newPipe(t)
			go func() {
				_, _ = a.conn.Read(make([]byte, 2))
				_ = a.conn.Close()
			}()
			return c, nil
		}
		end := w.run(t)
		time.Sleep(time.Minute)
		_ = end()
		if n < 5 || n > 30 {
			t.Errorf("%d connections in a minute, want few", n)
		}
	})
}

func TestBackoff(t *testing.T) {
	b := backoff{first: announceFirst}
	now := time.Unix(1, 0)
	for i, want := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, retryMax, retryMax} {
		if got := b.next(now); got < want*4/5 || got > want*6/5 {
			t.Errorf("pause %d is %v, want %v and a fifth", i, got, want)
		}
	}
	if got := b.next(now.Add(retryGiveUp)); got != retryMax {
		t.Errorf("after a quarter of an hour the pause is %v, want exactly %v", got, retryMax)
	}
}

// The config dump is the reference's.
func TestDump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := begun(t)
		w.pods.failing("uid1", errTaken)
		a.exchange(add("uid1"), openNetns(t, w.dir, "1"))
		const info = `"info":{"name":"name-uid1","namespace":"ns","serviceAccount":"sa"}`
		wantJSON(t, w, `{"uid1":{`+info+`,"state":"Pending"}}`)
		w.pods.failing("uid1", nil)
		a.want("", a.exchange(add("uid1"), openNetns(t, w.dir, "1")))
		a.want("", a.exchange(snapshot()))
		wantJSON(t, w, `{"uid1":{`+info+`,"state":"Up","connections":{"inbound":[],"outbound":[]}}}`)
		a.want("", a.exchange(del("uid1")))
		wantJSON(t, w, `{}`)
	})
}

func wantJSON(t *testing.T, w *world, want string) {
	t.Helper()
	got, err := json.Marshal(w.Dump())
	if err != nil || string(got) != want {
		t.Errorf("dump %s, %v, want %s", got, err, want)
	}
}

// More pods than there can be are refused.
func TestSession_TooManyPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		for i := range maxPods {
			w.states.running[string(rune(i+0x10000))] = nil
		}
		m := &message{WorkloadRequest: add("one more"), netns: openNetns(t, w.dir, "1")}
		err := w.states.obey(t.Context(), m)
		m.close()
		if !errors.Is(err, errTooManyPod) {
			t.Errorf("error %v, want %v", err, errTooManyPod)
		}
		if n := leftOpen(t, w.dir); n != 0 || len(w.states.pending) != 0 {
			t.Errorf("%d namespaces are left open, %d pods pending", n, len(w.states.pending))
		}
	})
}
