package hbone

import "testing"

// BenchmarkPoolOpen measures the pool alone; the two allocations are the fake's stream and the request.
func BenchmarkPoolOpen(b *testing.B) {
	for _, bc := range []struct {
		name string
		keys int
	}{{"1key", 1}, {"256keys", 256}} {
		b.Run(bc.name, func(b *testing.B) {
			net := &fakeNet{limit: 1 << 40}
			p := newPool(PoolConfig{MaxStreams: 1 << 40}, net.dial)
			defer p.Close()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := p.Open(b.Context(), testKey(i%bc.keys), &Request{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
