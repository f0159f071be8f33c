package attack

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Those who are attacked on less than a tunnel, or on something else.

// recorder keeps what is read.
type recorder struct {
	*net.TCPConn
	said []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.TCPConn.Read(p)
	r.said = append(r.said, p[:n]...)
	return n, err
}

// silent is what an attacker must be from now on until he leaves.
func (s *sight) silent(c io.Reader) error {
	n, err := c.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.left(err)
	} else if n > 0 {
		s.fail("the attacker says more than he should")
	}
	return err
}

// floodedWithConnections sees nothing but connections and their resets.
func floodedWithConnections(s *sight, c *net.TCPConn) {
	if err := s.silent(c); !errors.Is(err, syscall.ECONNRESET) {
		s.left(fmt.Errorf("%w, want a reset", err))
	}
	s.step(true)
}

// floodedWithHellos sees one and the same ClientHello, which it answers.
func floodedWithHellos(s *sight, c *net.TCPConn) {
	var hello []byte
	r := &recorder{TCPConn: c}
	server := tls.Server(r, &tls.Config{
		Certificates: []tls.Certificate{certificate()}, NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			hello = slices.Clone(r.said)
			s.patient.Do(func() { s.waits(c) })
			return nil, nil
		},
	})
	err := server.Handshake()
	if len(r.said) == 0 {
		s.left(err)
		return
	}
	if err == nil || hello == nil || len(r.said) > len(hello) {
		s.fail("after a ClientHello of %d bytes the attacker said %d, and the handshake's end was %v", len(hello), len(r.said)-len(hello), err)
		return
	}
	s.alike(hello)
	s.step(true)
}

// waits fails if the attacker does not wait for an answer.
func (s *sight) waits(c net.Conn) {
	const impatient = 50 * time.Millisecond
	_ = c.SetReadDeadline(time.Now().Add(impatient))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		s.fail("without an answer: %w, want the attacker to wait", err)
	}
	_ = c.SetReadDeadline(time.Now().Add(limit))
}

// shakingHands completes handshakes, and sees nothing else.
func shakingHands(s *sight, c *net.TCPConn) {
	if tunnel := s.handshake(c); tunnel != nil {
		_ = s.silent(tunnel)
		s.step(true)
	}
}

// heldTunnels have had their handshake, and nothing comes.
func heldTunnels(s *sight, c *net.TCPConn) {
	if tunnel := s.handshake(c); tunnel != nil {
		s.step(true)
		_ = s.silent(tunnel)
	}
}

// heldConnections get a byte now and then, of what they should say in the end.
// unit tells whether bytes are what is counted, and not connections.
func heldConnections(say []byte, unit bool) handler {
	return func(s *sight, c *net.TCPConn) {
		s.step(!unit)
		for n := 0; ; n++ {
			var b [1]byte
			if _, err := c.Read(b[:]); err != nil {
				s.left(err)
				return
			}
			if n < len(say) && b[0] != say[n] {
				s.fail("byte %d is %#x, want %#x", n, b, say[n])
				return
			}
			s.step(unit)
		}
	}
}

// notTLS gets so many bytes, which no TLS server understands.
func notTLS(size int) handler {
	return func(s *sight, c *net.TCPConn) {
		r := &recorder{TCPConn: c}
		err := tls.Server(r, &tls.Config{Certificates: []tls.Certificate{certificate()}}).Handshake()
		if len(r.said) < size {
			_, _ = io.ReadFull(r, make([]byte, size-len(r.said)))
		}
		_, _ = c.Write([]byte("?")) // an answer, after which the attacker leaves
		_ = s.silent(c)
		if len(r.said) == 0 {
			s.left(err)
			return
		}
		if _, ok := errors.AsType[tls.RecordHeaderError](err); !ok || len(r.said) != size {
			s.fail("%d bytes came, which are %w, want %d that are no record", len(r.said), err, size)
			return
		}
		s.alike(r.said)
		s.step(true)
	}
}

// page is what an HTTP server answers with: too much for a connection to be used
// again by somebody who does not read it.
var page = bytes.Repeat([]byte("page\n"), 10<<10/5)

// asked serves a page on a path.
func asked(at netip.AddrPort, path string) handler {
	return func(s *sight, c *net.TCPConn) {
		r := bufio.NewReader(c)
		for {
			request, err := http.ReadRequest(r)
			if err != nil {
				s.left(err)
				return
			}
			if request.Method != http.MethodGet || request.URL.String() != path || request.Host != at.String() {
				s.fail("it is asked by %s for %s of %s, want %s of %s", request.Method, request.URL, request.Host, path, at)
				return
			}
			response := http.Response{
				StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(page)), Close: request.Close,
				Body: io.NopCloser(bytes.NewReader(page)),
			}
			if err := response.Write(c); err != nil {
				s.left(err)
				return
			}
			s.answered(request)
			if request.Close {
				return
			}
		}
	}
}

func (s *sight) answered(request *http.Request) {
	s.step(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if request.Close {
		s.leaving++
	}
}

// resolve gets queries, which it does not answer.
func (s *sight) resolve(t testing.TB, at netip.AddrPort, check func(s *sight, query []byte) error) (stop func()) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 1<<10)
		for {
			n, err := c.Read(b)
			if err != nil {
				return // it is closed
			}
			if err := check(s, b[:n]); err != nil {
				s.fail("query %#x: %w", b[:n], err)
			}
			s.step(true)
		}
	})
	return func() {
		c.Close()
		serving.Wait()
	}
}

// askedFor returns the name of a query for its address.
func askedFor(query []byte) (string, error) {
	var m dns.Msg
	if err := m.Unpack(query); err != nil {
		return "", err
	}
	if m.Response || m.Opcode != dns.OpcodeQuery || len(m.Question) != 1 || m.Question[0].Qtype != dns.TypeA || m.Question[0].Qclass != dns.ClassINET {
		return "", fmt.Errorf("it is %v, want a query for an address", &m)
	}
	return m.Question[0].Name, nil
}

func nameOfMesh(_ *sight, query []byte) error {
	name, err := askedFor(query)
	if err == nil && name != "echo.servers.svc.cluster.local." {
		err = fmt.Errorf("the name is %q", name)
	}
	return err
}

func newName(s *sight, query []byte) error {
	name, err := askedFor(query)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && (s.names[name] || !strings.HasSuffix(name, ".example.com.")) {
		err = errors.New("the name was asked for before, or is of somebody")
	}
	s.names[name] = true
	return err
}

// noQuery is for one that a server must look at until it sees that it is none.
func noQuery(_ *sight, query []byte) error {
	const header, response = 12, 0x80
	if len(query) <= header || query[2]&response != 0 {
		return errors.New("its header is no query's")
	}
	if name, err := askedFor(query); err == nil {
		return fmt.Errorf("it asks for %q", name)
	}
	return nil
}

// sentDatagrams is how many the namespace has sent.
func sentDatagrams(t testing.TB) int {
	t.Helper()
	counters, err := os.ReadFile("/proc/self/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(counters)) {
		fields := strings.Fields(line)
		if fields[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		n, err := strconv.Atoi(fields[slices.Index(names, "OutDatagrams")])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Fatal("the kernel does not tell how many datagrams it sent")
	return 0
}
