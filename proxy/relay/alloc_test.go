//go:build !race

package relay

import (
	"io"
	"testing"
)

// An exchange allocates nothing. (With the race detector, sync.Pool drops buffers at random.)
func TestCopyAllocations(t *testing.T) {
	r := startRelay(t)
	p := make([]byte, 3000)
	exchange := func() {
		write(t, r.client, p)
		io.ReadFull(r.server, p)
		write(t, r.server, p)
		io.ReadFull(r.client, p)
	}
	exchange()
	if got := testing.AllocsPerRun(200, exchange); got != 0 {
		t.Errorf("an exchange makes %v allocations, want 0", got)
	}
}
