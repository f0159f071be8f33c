package identity_test

import (
	"testing"
	"testing/synctest"
	"time"

	"ztunnel/proxy/identity"
)

// Workloads come and go; what is asked for otherwise, such as the certificate of
// the process itself, stays and is renewed.
func TestManager_ForgetLeavesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newScriptedCA(t, 0, 100*time.Second)
		m := run(t, ca, identity.Config{})
		first := want(t, m, "own", identity.Warmup)
		for range 3 {
			if err := m.Prefetch(account("pod")); err != nil {
				t.Fatal(err)
			}
			want(t, m, "pod", identity.RealTime)
			m.Forget(account("pod"))
			if got := state(m, "pod"); got != "" {
				t.Errorf("state of the pod after Forget = %s, want not held", got)
			}
			if got := state(m, "own"); got != "Available" {
				t.Errorf("state of the process = %q, want Available", got)
			}
			time.Sleep(time.Minute) // more than half of its life
			synctest.Wait()
		}
		if again := want(t, m, "own", identity.RealTime); again == first || state(m, "own") != "Available" {
			t.Error("the certificate of the process was not renewed")
		}
	})
}
