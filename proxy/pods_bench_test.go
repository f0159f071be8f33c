package proxy

import (
	"testing"

	"ztunnel/proxy/needs"
)

// BenchmarkPods_Start starts one pod after the other in the same namespace; their end is not measured.
func BenchmarkPods_Start(b *testing.B) {
	needs.Root(b)
	_, ps := newPods(b)
	ns := netns(b)
	b.ReportAllocs()
	for b.Loop() {
		r, err := ps.Start(b.Context(), "uid", info, again(b, ns))
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		r.Drain(true)
		<-r.Done()
		b.StartTimer()
	}
}
