package proxy

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ztunnel/proxy/hbone"
)

// The totals are those of all pods, and stay when a pod goes.
func TestPools(t *testing.T) {
	unreachable := func(context.Context, hbone.Key) (*hbone.ClientConn, error) { return nil, errors.New("unreachable") }
	var all pools
	want := func(misses uint64) {
		t.Helper()
		if diff := cmp.Diff(hbone.PoolStats{Misses: misses}, all.stats()); diff != "" {
			t.Errorf("stats() differs, want (-) and got (+):\n%s", diff)
		}
	}
	want(0)
	var pods [2]*hbone.Pool
	for i := range pods {
		pods[i] = hbone.NewPool(hbone.PoolConfig{Dial: unreachable})
		all.add(pods[i])
		if _, err := pods[i].Open(t.Context(), hbone.Key{}, &hbone.Request{Method: "CONNECT"}); err == nil {
			t.Fatal("Open of what cannot be reached succeeded")
		}
	}
	want(2)
	for _, pool := range pods {
		pool.Close()
		all.remove(pool)
		all.remove(pool) // once is enough
		want(2)
	}
}
