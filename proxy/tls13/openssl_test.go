package tls13

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"ztunnel/proxy/aesgcm"
	"ztunnel/proxy/needs"
)

// OpenSSL understands both roles and is understood, under both suites, with
// updates of both sides' keys on the way.
func TestSession_AgainstOpenSSL(t *testing.T) {
	path := needs.OpenSSL(t)
	for _, suite := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384} {
		name := tls.CipherSuiteName(suite)
		t.Run(name, func(t *testing.T) {
			t.Run("client", func(t *testing.T) { converse(t, connectOpenSSL(t, path, suite)) })
			t.Run("server", func(t *testing.T) { converse(t, acceptOpenSSL(t, path, suite)) })
		})
	}
}

// foreign is a session whose other end is a program, which sends what it is told
// in lines and prints what it receives.
type foreign struct {
	*link
	*program
}

// converse tells the program to update its keys and to ask for ours, and asks for
// its.
func converse(t *testing.T, f *foreign) {
	say := func(text string) {
		t.Helper()
		f.tell(t, text)
		if got, err := f.receive(len(text) + 1); string(got) != text+"\n" || err != nil {
			t.Fatalf("receive() = %q, %v, want %q", got, err, text)
		}
	}
	hear := func(text string) {
		t.Helper()
		f.send(t, []byte(text+"\n"))
		f.await(t, regexp.QuoteMeta(text))
	}
	say("hello")
	hear("good day")

	f.tell(t, "k") // updates its keys
	f.await(t, `>>> .*KeyUpdate`)
	say("with new keys")
	if f.updates != 1 || f.Owes() {
		t.Errorf("%d updates, owes %t, want one that asks for nothing", f.updates, f.Owes())
	}
	f.tell(t, "K") // and asks for ours
	f.await(t, `>>> .*KeyUpdate`)
	say("with newer keys")
	if f.updates != 2 || !f.Owes() {
		t.Errorf("%d updates, owes %t, want one more that asks for ours", f.updates, f.Owes())
	}
	hear("with our new keys")

	request, err := f.sealUpdate(make([]byte, 0, Room(0)), updateRequested)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.conn.Write(request); err != nil {
		t.Fatal(err)
	}
	hear("with our newer keys")
	say("with the keys that were asked for")
	if f.updates != 3 {
		t.Errorf("%d updates, want one more for our request", f.updates)
	}
	f.send(t, bytes.Repeat([]byte("0123456789abcdef"), 3*MaxPlaintext/16)) // between its records it tells of them
	hear("was much")

	if _, err := f.conn.Write(f.SealClose(make([]byte, 0, Room(0)))); err != nil {
		t.Fatal(err)
	}
	f.await(t, `<<< .*close_notify`)
}

// connectOpenSSL is a session with s_server, which sends tickets too.
func connectOpenSSL(t *testing.T, path string, suite uint16) *foreign {
	t.Helper()
	client, server := configs(t)
	file := filepath.Join(t.TempDir(), "server.pem")
	writeIdentity(t, file, server.Certificates[0])
	p := startProgram(t, exec.Command(path, "s_server", "-accept", "127.0.0.1:0", "-cert", file, "-tls1_3", "-msg",
		"-ciphersuites", tls.CipherSuiteName(suite)))
	address := p.await(t, `ACCEPT (127\.0\.0\.1:\d+)`)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	limit(t, conn)
	secrets := &Secrets{}
	client.KeyLogWriter = secrets
	return &foreign{takeOver(t, conn, tls.Client(conn, client), secrets, true, aesgcm.New), p}
}

// acceptOpenSSL is a session with s_client.
func acceptOpenSSL(t *testing.T, path string, suite uint16) *foreign {
	t.Helper()
	_, server := configs(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := startProgram(t, exec.Command(path, "s_client", "-connect", l.Addr().String(), "-servername", "test", "-tls1_3", "-msg",
		"-ciphersuites", tls.CipherSuiteName(suite)))
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	limit(t, conn)
	secrets := &Secrets{}
	server.KeyLogWriter = secrets
	return &foreign{takeOver(t, conn, tls.Server(conn, server), secrets, false, aesgcm.New), p}
}

// limit closes a connection after the test, and ends what takes too long on it.
func limit(t *testing.T, conn net.Conn) {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(foreignLimit)); err != nil {
		t.Fatal(err)
	}
}

func writeIdentity(t *testing.T, file string, c tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	content := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// foreignLimit is how long a program may take for everything.
const foreignLimit = 30 * time.Second

// program is a running openssl. What it prints, to both of its outputs, is kept.
type program struct {
	stdin io.Writer

	mu      sync.Mutex
	printed bytes.Buffer
	more    chan struct{} // of one element: something was printed
}

func startProgram(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{more: make(chan struct{}, 1)}
	cmd.Stdout, cmd.Stderr = p, p
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	return p
}

// Write takes what the program prints.
func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.more <- struct{}{}:
	default:
	}
	return p.printed.Write(b)
}

// tell gives the program a line. One of a letter may be a command.
func (p *program) tell(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

// await waits until the program prints what matches, and forgets everything up to
// there. It returns the group of the pattern, if there is one.
func (p *program) await(t *testing.T, pattern string) string {
	t.Helper()
	wanted := regexp.MustCompile(pattern)
	late := time.After(foreignLimit)
	for {
		if text, ok := p.take(wanted); ok {
			return text
		}
		select {
		case <-p.more:
		case <-late:
			t.Fatalf("it does not print %.100q, but %.2000q", pattern, p.all())
		}
	}
}

func (p *program) take(wanted *regexp.Regexp) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := wanted.FindSubmatchIndex(p.printed.Bytes())
	if found == nil {
		return "", false
	}
	text := string(p.printed.Next(found[1])[found[len(found)-2]:found[len(found)-1]])
	return text, true
}

func (p *program) all() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.printed.String()
}
