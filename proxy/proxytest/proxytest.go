// Package proxytest is a small mesh on the loopback interface for tests of the
// listeners: applications, workloads, certificates, and a log that can be
// waited for.
package proxytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
)

// Patience is how long a test waits for what must happen.
const Patience = 10 * time.Second

// Log keeps all lines that are written to it, as "LEVEL message key=value …".
type Log struct {
	mu      sync.Mutex
	lines   []string
	changed chan struct{}
	prefix  string
	parent  *Log
}

// NewLog returns an empty log.
func NewLog() *Log { return &Log{changed: make(chan struct{})} }

// Logger returns a logger that writes to the log, at every level.
func (l *Log) Logger() *slog.Logger { return slog.New(l) }

// Enabled is true.
func (l *Log) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs keeps the attributes for every line.
func (l *Log) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	b.WriteString(l.prefix)
	for _, a := range attrs {
		write(&b, a)
	}
	return &Log{parent: l.root(), prefix: b.String()}
}

// WithGroup is not needed by anybody.
func (l *Log) WithGroup(string) slog.Handler { return l }

func (l *Log) root() *Log {
	if l.parent != nil {
		return l.parent
	}
	return l
}

// Handle keeps a line.
func (l *Log) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s%s", r.Level, r.Message, l.prefix)
	r.Attrs(func(a slog.Attr) bool {
		write(&b, a)
		return true
	})
	root := l.root()
	root.mu.Lock()
	defer root.mu.Unlock()
	root.lines = append(root.lines, b.String())
	close(root.changed)
	root.changed = make(chan struct{})
	return nil
}

func write(b *strings.Builder, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() != slog.KindGroup {
		fmt.Fprintf(b, " %s=%v", a.Key, v)
		return
	}
	for _, inner := range v.Group() {
		write(b, inner)
	}
}

// find returns the first line that has all parts, and a channel that is closed
// with the next line.
func (l *Log) find(parts []string) (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if hasAll(line, parts) {
			return line, nil
		}
	}
	return "", l.changed
}

func hasAll(line string, parts []string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) })
}

// Wait returns the first line that has all parts, and waits for it.
func (l *Log) Wait(tb testing.TB, parts ...string) string {
	tb.Helper()
	timer := time.NewTimer(Patience)
	defer timer.Stop()
	for {
		line, more := l.find(parts)
		if line != "" {
			return line
		}
		select {
		case <-more:
		case <-timer.C:
			tb.Fatalf("the log has no line with %q; it has\n%s", parts, l)
		}
	}
}

// Has reports whether some line has all parts.
func (l *Log) Has(parts ...string) bool {
	line, _ := l.find(parts)
	return line != ""
}

// Count is how many lines have all parts.
func (l *Log) Count(parts ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if hasAll(line, parts) {
			n++
		}
	}
	return n
}

// String is all lines.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// Certificates gives every identity a certificate of one CA, or Err.
type Certificates struct {
	CA  *identitytest.CA
	Err error

	mu    sync.Mutex
	known map[spiffe.ID]*identity.Certificate
	left  int // if above 0, the number of answers left and one
}

// FailAfter makes all requests after the next n fail.
func (c *Certificates) FailAfter(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = n + 1
}

// Certificate returns the certificate of an identity, always the same.
func (c *Certificates) Certificate(ctx context.Context, id spiffe.ID, _ identity.Priority) (*identity.Certificate, error) {
	if c.Err != nil {
		return nil, c.Err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 1 {
		return nil, errors.New("out of certificates")
	}
	c.left = max(0, c.left-1)
	if cert := c.known[id]; cert != nil {
		return cert, nil
	}
	cert, err := c.CA.Sign(ctx, id)
	if err != nil {
		return nil, err
	}
	if c.known == nil {
		c.known = map[spiffe.ID]*identity.Certificate{}
	}
	c.known[id] = cert
	return cert, nil
}

// Listen listens on a free port of a loopback address. The listener is closed
// at the end of the test.
func Listen(tb testing.TB, ip string) *net.TCPListener {
	tb.Helper()
	return listen(tb, net.JoinHostPort(ip, "0"))
}

func listen(tb testing.TB, addr string) *net.TCPListener {
	tb.Helper()
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = ln.Close() })
	return ln.(*net.TCPListener)
}

// Port returns the port of a listener.
func Port(ln *net.TCPListener) uint16 { return ln.Addr().(*net.TCPAddr).AddrPort().Port() }

// Application serves every connection to a free port of ip until the end of the
// test, which waits for the handlers.
func Application(tb testing.TB, ip string, serve func(*net.TCPConn)) netip.AddrPort {
	tb.Helper()
	return ApplicationAt(tb, net.JoinHostPort(ip, "0"), serve)
}

// ApplicationAt is an Application at a given address.
func ApplicationAt(tb testing.TB, addr string, serve func(*net.TCPConn)) netip.AddrPort {
	tb.Helper()
	ln := listen(tb, addr)
	var conns sync.Map
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			conns.Store(c, nil)
			handlers.Go(func() {
				defer conns.Delete(c)
				defer func() { _ = c.Close() }()
				serve(c)
			})
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		conns.Range(func(c, _ any) bool {
			_ = c.(net.Conn).Close()
			return true
		})
		handlers.Wait()
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// Echo is an application that sends back what it gets.
func Echo(tb testing.TB, ip string) netip.AddrPort {
	tb.Helper()
	return Application(tb, ip, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
}

// Dial connects from one loopback address to another. The connection is closed
// at the end of the test.
func Dial(tb testing.TB, from string, to net.Addr) *net.TCPConn {
	tb.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(tb.Context(), "tcp", to.String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

// Say writes text to c and reads as much back.
func Say(tb testing.TB, c net.Conn, text string) {
	tb.Helper()
	if err := Exchange(c, text); err != nil {
		tb.Fatalf("echo: %v", err)
	}
}

// Exchange writes text to c and reads as much back.
func Exchange(c net.Conn, text string) error {
	_ = c.SetDeadline(time.Now().Add(Patience))
	defer func() { _ = c.SetDeadline(time.Time{}) }()
	if _, err := io.WriteString(c, text); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if string(b) != text {
		return fmt.Errorf("got %q, want %q", b, text)
	}
	return nil
}

// Ended reads c to its end and returns why it ended: nil for an orderly end.
func Ended(c net.Conn) error {
	_ = c.SetReadDeadline(time.Now().Add(Patience))
	_, err := io.Copy(io.Discard, c)
	return err
}

// Until waits until ok holds.
func Until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(Patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			tb.Fatalf("it never came true: %s", what)
		}
	}
}

// Workload is a captured workload of the namespace "default" and the trust
// domain "cluster.local", with its name as everything.
func Workload(name string, addrs ...string) *workload.Workload {
	w := &workload.Workload{
		UID: name, Name: name, Namespace: "default", TrustDomain: "cluster.local", ServiceAccount: name,
		WorkloadName: name + "-controller", WorkloadType: "deployment", CanonicalName: name + "-canonical", CanonicalRevision: "v1",
		ClusterID: "Kubernetes", Protocol: workload.HBONE, Capacity: 1,
		Services: map[workload.NamespacedHostname]workload.PortMap{},
	}
	for _, a := range addrs {
		w.Addrs = append(w.Addrs, netip.MustParseAddr(a))
	}
	return w
}

// Info says which workload a proxy acts for.
func Info(w *workload.Workload) workload.Info {
	return workload.Info{Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
}
