package attack

import (
	"context"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestAll(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range All {
		if a.Name == "" || a.Why == "" || a.Unit == "" || a.run == nil || seen[a.Name] {
			t.Errorf("attack %+v is not complete, or there is another of its name", a)
		}
		seen[a.Name] = true
		if found, ok := Find(a.Name); !ok || found.Why != a.Why {
			t.Errorf("Find(%q) = %+v, %t", a.Name, found, ok)
		}
	}
	if _, ok := Find("kindness"); ok {
		t.Error("Find of no attack = true")
	}
}

// All attacks end in time where nobody listens, and leave no goroutine.
func TestRun_Ends(t *testing.T) {
	to := target(t)
	for i := range All {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		start := time.Now()
		p, err := All[i].Run(ctx, to, 1)
		cancel()
		if took := time.Since(start); err != nil || took > 2*time.Second {
			t.Errorf("%s: %+v, %v after %s", All[i].Name, p, err, took)
		}
	}
	if _, err := All[0].Run(t.Context(), Target{}, 1); err == nil {
		t.Error("Run without a key = nil, want an error")
	}
}

func TestDebt(t *testing.T) {
	for _, test := range []struct {
		elapsed, used time.Duration
		share         float64
		want          time.Duration
	}{
		{time.Second, 250*time.Millisecond + burst, 0.25, 0},
		{time.Second, 300*time.Millisecond + burst, 0.25, 200 * time.Millisecond},
		{time.Second, burst, 0.5, -time.Second},
	} {
		if got := debt(test.elapsed, test.used, test.share); got != test.want {
			t.Errorf("debt(%s, %s, %g) = %s, want %s", test.elapsed, test.used, test.share, got, test.want)
		}
	}
}

// The throttle keeps a busy process to its share.
func TestThrottle(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	th := throttle{share: 0.2}
	before := processorTime()
	for th.wait(ctx) {
	}
	if used := processorTime() - before; used > 150*time.Millisecond {
		t.Errorf("%s were used of 300 ms, want about 60 ms", used)
	}
}

func TestClientHello(t *testing.T) {
	hello := clientHello()
	const handshake, hi = 22, 1
	if len(hello) < 100 || hello[0] != handshake || hello[5] != hi {
		t.Errorf("the ClientHello is %x", hello)
	}
}

func TestQuestion(t *testing.T) {
	var m dns.Msg
	if err := m.Unpack(question("a.example.", 7)); err != nil || m.Id != 7 || m.Question[0].Name != "a.example." {
		t.Errorf("question = %v, %v", &m, err)
	}
}
