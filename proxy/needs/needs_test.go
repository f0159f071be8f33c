package needs

import (
	"runtime"
	"testing"
)

// recorder is a test that tells how it ended.
type recorder struct {
	testing.TB
	skipped, failed bool
}

func (r *recorder) Helper()      {}
func (r *recorder) Skip(...any)  { r.skipped = true; runtime.Goexit() }
func (r *recorder) Fatal(...any) { r.failed = true; runtime.Goexit() }

func ended(needs func(t testing.TB)) *recorder {
	r := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		needs(r)
	}()
	<-done
	return r
}

func TestMissing(t *testing.T) {
	for _, required := range []bool{false, true} {
		r := ended(func(t testing.TB) { missing(t, "something", required) })
		if r.skipped == required || r.failed != required {
			t.Errorf("required %t: skipped %t, failed %t", required, r.skipped, r.failed)
		}
	}
}

func TestPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for name, needs := range map[string]func(testing.TB) string{
		"promtool": Promtool, "curl": Curl, "dig": Dig, "nsupdate": Nsupdate, "getent": Getent,
	} {
		if r := ended(func(t testing.TB) { needs(t) }); !r.skipped && !r.failed {
			t.Errorf("the test went on without %s", name)
		}
	}
}
