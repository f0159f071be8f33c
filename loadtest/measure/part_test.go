package measure

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

func TestUsedTime(t *testing.T) {
	stat := "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 12 3 0 0 20 0 9 0 100 0 0"
	if got, err := usedTime(stat); got != 150*time.Millisecond || err != nil {
		t.Errorf("usedTime = %s, %v, want 150ms", got, err)
	}
	for _, stat := range []string{"", "7 (a) S 1", strings.Replace(stat, " 12 3 ", " x 3 ", 1), strings.Replace(stat, " 12 3 ", " 12 x ", 1)} {
		if got, err := usedTime(stat); err == nil {
			t.Errorf("usedTime(%q) = %s, want an error", stat, got)
		}
	}
}

func TestMiddle(t *testing.T) {
	values := []float64{9, 1, 5}
	if got := middle(values); got != 5 || values[0] != 9 {
		t.Errorf("middle = %g, then the values are %v, want 5 and no change", got, values)
	}
}

func TestPlayRefuses(t *testing.T) {
	for _, args := range [][]string{nil, {"juggler", "-at=127.0.0.1:1"}, {pingPart}, {pingPart, "-at=nowhere"}, {pingPart, "-fast"}} {
		if err := play(t.Context(), args, new(strings.Builder)); err == nil {
			t.Errorf("play(%q) = nil, want an error", args)
		}
	}
}

// Both parts together, without a mesh.
func TestParts(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := serve(ctx, ln); err != nil {
			t.Errorf("serve = %v, want nil", err)
		}
	})
	var out strings.Builder
	if err := play(t.Context(), []string{pingPart, "-at=" + ln.Addr().String(), "-turns=2", "-length=1ms"}, &out); err != nil {
		t.Errorf("play = %v, want nil", err)
	}
	cancel()
	serving.Wait()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || lines[0] != beginLine {
		t.Fatalf("it says %q, want a begin and two turns", lines)
	}
	h, err := hdrhistogram.Decode([]byte(strings.TrimPrefix(lines[2], turnLine)))
	if err != nil || h.TotalCount() == 0 {
		t.Errorf("the last turn is %v, %v, want round trips", h, err)
	}
}
