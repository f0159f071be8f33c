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

	"ztunnel/telemetry/connection"
)

// owner answers with its fields.
type owner struct {
	facts   Facts
	recheck error
}

func (o owner) Facts() Facts   { return o.facts }
func (o owner) Recheck() error { return o.recheck }

func conn(cancel func(error)) *Conn {
	c := &Conn{}
	c.OnEnd(cancel)
	return c
}

func TestWait_ReturnsWhenTheLastConnectionIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Set
		if err := s.Wait(t.Context()); err != nil {
			t.Errorf("Wait() of an empty set = %v, want nil", err)
		}
		a, b := conn(nil), conn(nil)
		s.Add(a, owner{})
		s.Add(b, owner{})
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
		s.Add(conn(nil), owner{})
		late := errors.New("too late")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, late)
		defer cancel()
		if err := s.Wait(ctx); !errors.Is(err, late) {
			t.Errorf("Wait() = %v, want %v", err, late)
		}
	})
}

func TestRecheck_EndsOnlyWhatIsDenied(t *testing.T) {
	var s Set
	causes := map[string]error{}
	add := func(name string, recheck error) *Conn {
		c := conn(func(cause error) { causes[name] = cause })
		s.Add(c, owner{recheck: recheck})
		return c
	}
	add("allowed", nil)
	denied := add("denied", errors.New("no"))
	ended := s.Recheck()
	if len(ended) != 1 || ended[0] != denied {
		t.Errorf("Recheck() ended %d connections, want the denied one", len(ended))
	}
	if len(causes) != 1 || !errors.Is(causes["denied"], ErrPolicyChanged) {
		t.Errorf("causes = %v, want only ErrPolicyChanged for the denied one", causes)
	}
}

func TestEndAll_EndsEverythingWithItsCause(t *testing.T) {
	var s Set
	causes := make([]error, 40)
	for i := range causes {
		s.Add(conn(func(cause error) { causes[i] = cause }), owner{})
	}
	if n := s.EndAll(ErrDraining); n != len(causes) {
		t.Errorf("EndAll() = %d, want %d", n, len(causes))
	}
	for i, cause := range causes {
		if !errors.Is(cause, ErrDraining) {
			t.Fatalf("cause of connection %d = %v, want ErrDraining", i, cause)
		}
	}
}

func TestCauses_FlagsAndTexts(t *testing.T) {
	for _, tc := range []struct {
		err  error
		flag connection.Flag
		text string
	}{
		{ErrPolicyChanged, connection.FlagDeny, "connection closed due to policy change"},
		{ErrDraining, connection.FlagNone, "connection closed due to connection drain"},
		{ErrCertificateRevoked, connection.FlagRevoked, "connection closed: peer certificate revoked by CRL"},
	} {
		if got := connection.FlagOf(tc.err); got != tc.flag || tc.err.Error() != tc.text {
			t.Errorf("%q has flag %q, want %q with %q", tc.err, got, tc.text, tc.flag)
		}
	}
}

// Removing in any order leaves exactly the others in the list.
func TestSet_Model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Set
		model := map[*Conn]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(*rapid.T) {
				c := conn(nil)
				s.Add(c, owner{})
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
		s.Add(conn(nil), owner{facts: Facts{Inbound: true, Src: addr("10.0.0.2:1"), Actual: addr("10.0.0.9:80"), Host: "web.shop", Protocol: HBONE}})
	}
	s.Add(conn(nil), owner{facts: Facts{Inbound: true, Src: addr("10.0.0.1:1"), Actual: addr("10.0.0.9:80"), Protocol: TCP}})
	s.Add(conn(nil), owner{facts: Facts{Src: addr("10.0.0.9:5"), Original: addr("10.9.0.1:80"), Actual: addr("10.0.0.3:15008"), Protocol: HBONE}})
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
			s.Add(c, owner{})
			c.Remove()
		}
	})
}
