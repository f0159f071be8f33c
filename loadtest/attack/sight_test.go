package attack

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// limit is how long anything may take that should be there at once.
const limit = 10 * time.Second

// Those who are attacked, in the namespace of the tests.
var (
	victim  = netip.MustParseAddr("127.0.9.1")
	ztunnel = netip.MustParseAddr("127.0.9.2")
	nowhere = netip.MustParseAddrPort("192.0.2.1:80")
	last    = netip.MustParseAddr("127.0.9.3") // who connects when the attack is over
)

// certificate is the attacker's, and that of whom he attacks: it does not matter
// who signed it.
var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

func target(t testing.TB) Target {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(certificate().PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return Target{Pod: victim, AppPort: 8080, Ztunnel: ztunnel, Certificate: certificate().Certificate, Key: key}
}

// sight is what those who are attacked see of an attack.
type sight struct {
	enough int           // steps
	seen   chan struct{} // closed when there were enough, or something was wrong
	gone   chan struct{} // closed when the attack has ended

	mu       sync.Mutex
	steps    int  // what arrived, be it a unit or not
	units    int  // of the attack
	accepted int  // connections
	open     int  // of them, now
	most     int  // that were open at once
	leaving  int  // that were announced to be for one request
	over     bool // the attack was told to end
	wrong    error
	grown    time.Time       // when most became what it is
	names    map[string]bool // that were asked for
	same     []byte          // what all connections say
	patient  sync.Once       // looks whether the attacker is
}

func newSight(enough int) *sight {
	return &sight{enough: enough, seen: make(chan struct{}), gone: make(chan struct{}), names: map[string]bool{}}
}

// step is one more that arrived, a unit of the attack or not.
func (s *sight) step(unit bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if unit {
		s.units++
	}
	if s.steps++; s.steps == s.enough && s.wrong == nil {
		close(s.seen)
	}
}

// fail is for what the attack does not claim. The first counts.
func (s *sight) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrong != nil {
		return
	}
	if s.wrong = fmt.Errorf(format, args...); s.steps < s.enough {
		close(s.seen)
	}
}

// left judges the end of a connection that the attacker should keep: he may leave
// when the attack is over, and then he must.
func (s *sight) left(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.fail("a connection is left behind")
	} else if !s.ended() {
		s.fail("the attacker left: %w", err)
	}
}

// end says that the attack is told to end.
func (s *sight) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

func (s *sight) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// alike fails unless all connections say the same.
func (s *sight) alike(said []byte) {
	s.mu.Lock()
	if s.same == nil {
		s.same = said
	}
	before := s.same
	s.mu.Unlock()
	if !bytes.Equal(said, before) {
		s.fail("a connection said %x, another %x", said, before)
	}
}

func (s *sight) connected(change int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if change > 0 {
		s.accepted++
	}
	if s.open += change; s.open > s.most {
		s.most, s.grown = s.open, time.Now()
	}
}

// A handler receives what comes on a connection, and ends when its peer leaves.
type handler func(s *sight, c *net.TCPConn)

// listen accepts connections. After stop all that was sent has arrived.
func (s *sight) listen(t testing.TB, at netip.AddrPort, handle handler) (stop func()) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		defer ln.Close()
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				s.fail("accept: %w", err)
				return
			}
			if c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr() == last {
				c.Close()
				return
			}
			s.connected(1)
			serving.Go(func() {
				defer s.connected(-1)
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(limit))
				handle(s, c)
			})
		}
	})
	return func() {
		// Connections are accepted in turn: after this one there is no other.
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(last, 0))}
		c, err := d.DialContext(context.Background(), "tcp", at.String())
		if err != nil {
			ln.Close()
			t.Error(err)
		} else {
			defer c.Close()
		}
		serving.Wait()
	}
}
