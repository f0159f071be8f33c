package live

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func conn(cancel func(error)) *Conn {
	return &Conn{Cancel: cancel}
}

func TestWait_ReturnsWhenTheLastConnectionIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Set
		if err := s.Wait(t.Context()); err != nil {
			t.Errorf("Wait() of an empty set = %v, want nil", err)
		}
		a, b := conn(nil), conn(nil)
		s.Add(a)
		s.Add(b)
		go func() {
			time.Sleep(time.Second)
			a.Remove()
			time.Sleep(time.Second)
			b.Remove()
		}()
		start := time.Now()
		if err := s.Wait(t.Context()); err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("Wait() = %v after %v, want nil after 2s", err, time.Since(start))
		}
	})
}

func TestWait_EndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Set
		s.Add(conn(nil))
		late := errors.New("too late")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, late)
		defer cancel()
		if err := s.Wait(ctx); !errors.Is(err, late) {
			t.Errorf("Wait() = %v, want %v", err, late)
		}
	})
}

func TestRecheck_EndsOnlyWhatIsDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Set
		causes := map[string]error{}
		add := func(name string, recheck func() error) *Conn {
			c := &Conn{Recheck: recheck}
			c.Cancel = func(cause error) {
				causes[name] = cause
				go func() {
					time.Sleep(time.Second) // until it is torn down
					c.Remove()
				}()
			}
			s.Add(c)
			return c
		}
		add("free", nil)
		add("allowed", func() error { return nil })
		denied := add("denied", func() error { return errors.New("no") })
		start := time.Now()
		ended := s.Recheck(t.Context())
		if len(ended) != 1 || ended[0] != denied {
			t.Errorf("Recheck() ended %d connections, want the denied one", len(ended))
		}
		if len(causes) != 1 || !errors.Is(causes["denied"], ErrPolicyChanged) {
			t.Errorf("causes = %v, want only ErrPolicyChanged for the denied one", causes)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("Recheck() took %v, want to wait until the connection is gone", took)
		}
		if s.Len() != 2 {
			t.Errorf("Len() = %d, want 2", s.Len())
		}
	})
}

// Removing in any order leaves exactly the others in the list.
func TestSet_Model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Set
		model := map[*Conn]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(*rapid.T) {
				c := conn(nil)
				s.Add(c)
				model[c] = true
			},
			"remove": func(t *rapid.T) {
				for c := range model {
					c.Remove()
					delete(model, c)
					return
				}
				t.Skip("nothing to remove")
			},
			"": func(t *rapid.T) {
				list := s.List()
				if len(list) != len(model) || s.Len() != len(model) {
					t.Fatalf("List() has %d, Len() = %d, want %d", len(list), s.Len(), len(model))
				}
				for _, c := range list {
					if !model[c] {
						t.Fatal("List() has a removed connection")
					}
				}
			},
		})
	})
}

func TestDump_MergesEqualStreamsAndSorts(t *testing.T) {
	var s Set
	addr := netip.MustParseAddrPort
	for range 2 {
		s.Add(&Conn{Inbound: true, Src: addr("10.0.0.2:1"), Actual: addr("10.0.0.9:80"), Host: "web.shop", Protocol: HBONE})
	}
	s.Add(&Conn{Inbound: true, Src: addr("10.0.0.1:1"), Actual: addr("10.0.0.9:80"), Protocol: TCP})
	s.Add(&Conn{Src: addr("10.0.0.9:5"), Original: addr("10.9.0.1:80"), Actual: addr("10.0.0.3:15008"), Protocol: HBONE})
	got, err := json.Marshal(s.Dump())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"inbound":[{"src":"10.0.0.1:1","originalDst":null,"actualDst":"10.0.0.9:80","protocol":"TCP"},` +
		`{"src":"10.0.0.2:1","originalDst":"web.shop","actualDst":"10.0.0.9:80","protocol":"HBONE"}],` +
		`"outbound":[{"src":"10.0.0.9:5","originalDst":"10.9.0.1:80","actualDst":"10.0.0.3:15008","protocol":"HBONE"}]}`
	if string(got) != want {
		t.Errorf("Dump() = %s\nwant %s", got, want)
	}
}

func BenchmarkAddRemove(b *testing.B) {
	var s Set
	b.RunParallel(func(pb *testing.PB) {
		c := conn(nil)
		for pb.Next() {
			s.Add(c)
			c.Remove()
		}
	})
}
