package tls13

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ztunnel/proxy/aesgcm"
)

// The application data of the client in RFC 8448 §3.
func TestSession_KnownAnswer(t *testing.T) {
	eachAEAD(t, func(t *testing.T, newAEAD func([]byte) (*aesgcm.AEAD, error)) {
		secrets := &Secrets{
			client: unhex(t, "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"),
			server: unhex(t, "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"),
		}
		state := &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, HandshakeComplete: true}
		client, err := newSession(state, secrets, true, newAEAD)
		if err != nil {
			t.Fatal(err)
		}
		payload := make([]byte, 50)
		for i := range payload {
			payload[i] = byte(i)
		}
		want := unhex(t, `1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a
			20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4`)
		got, err := client.Seal(make([]byte, 0, Room(50)), payload)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("Seal() = %x, %v\nwant %x", got, err, want)
		}
		server, err := newSession(state, secrets, false, newAEAD)
		if err != nil {
			t.Fatal(err)
		}
		out := make([]byte, Plain(len(want)))
		if n, err := server.Open(out, want); err != nil || !bytes.Equal(out[:n], payload) {
			t.Errorf("Open() = %x, %v", out[:n], err)
		}
	})
}

// Both roles understand crypto/tls and are understood, with updates of both
// sides' keys on the way.
func TestSession_AgainstCryptoTLS(t *testing.T) {
	for _, client := range []bool{true, false} {
		name := map[bool]string{true: "client", false: "server"}[client]
		t.Run(name, func(t *testing.T) {
			eachAEAD(t, func(t *testing.T, newAEAD func([]byte) (*aesgcm.AEAD, error)) {
				exchange(t, newLink(t, client, newAEAD))
			})
		})
	}
}

// exchange has the peer send everything back.
func exchange(t *testing.T, l *link) {
	l.limit = 3 // records, then our keys are updated
	for _, n := range []int{1, 15, 1000, MaxPlaintext, MaxPlaintext + 1, 100_000, 7} {
		sent := make([]byte, n)
		rand.Read(sent)
		echoed := make(chan error, 1)
		go func() {
			_, err := io.CopyN(l.peer, l.peer, int64(n))
			echoed <- err
		}()
		request, err := l.sealUpdate(make([]byte, 0, Room(0)), updateRequested) // of the peer's keys too
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.conn.Write(request); err != nil {
			t.Fatal(err)
		}
		before := l.updates
		l.send(t, sent)
		got, err := l.receive(n)
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("receive() = %d bytes, %v, want the %d that were sent", len(got), err, n)
		}
		if err := <-echoed; err != nil {
			t.Fatal(err)
		}
		if l.updates != before+1 {
			t.Errorf("the peer has updated its keys %d times, want once for each request", l.updates-before)
		}
	}
}

// An update that the peer asks for is made before anything else is sent.
func TestSession_AnswersKeyUpdate(t *testing.T) {
	client, server := pair(t, tls.TLS_AES_256_GCM_SHA384, aesgcm.New)
	request, err := client.sealUpdate(make([]byte, 0, Room(0)), updateRequested)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, Plain(MaxRecord))
	if n, err := server.Open(out, request); n != 0 || err != nil || !server.Owes() {
		t.Fatalf("Open() = %d, %v, owes %t; want nothing, and an update owed", n, err, server.Owes())
	}
	answer, err := server.Seal(make([]byte, 0, Room(0)), nil)
	if err != nil || server.Owes() {
		t.Fatalf("Seal() = %v, owes %t", err, server.Owes())
	}
	if n, err := client.Open(out, answer); n != 0 || err != nil || client.updates != 1 || client.Owes() {
		t.Fatalf("Open() = %d, %v; %d updates, owes %t", n, err, client.updates, client.Owes())
	}
	for _, way := range [][2]*Session{{client, server}, {server, client}} {
		b, err := way[0].Seal(make([]byte, 0, Room(5)), []byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := way[1].Open(out, b); err != nil || string(out[:n]) != "hello" {
			t.Errorf("after the updates: Open() = %q, %v", out[:n], err)
		}
	}
}

// crypto/tls sees a good end, and we see its.
func TestSession_Close(t *testing.T) {
	l := newLink(t, true, aesgcm.New)
	if _, err := l.conn.Write(l.SealClose(make([]byte, 0, Room(0)))); err != nil {
		t.Fatal(err)
	}
	if _, err := l.peer.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the peer's Read() = %v, want EOF", err)
	}
	if err := l.peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.receive(1); !errors.Is(err, io.EOF) {
		t.Errorf("receive() = %v, want EOF", err)
	}
}

// The peer is told of its fault, and an alert of the peer is an error.
func TestSession_Alerts(t *testing.T) {
	l := newLink(t, false, aesgcm.New)
	record, err := l.Seal(make([]byte, 0, Room(1)), []byte{1})
	if err != nil {
		t.Fatal(err)
	}
	record[len(record)-1] ^= 1
	l.conn.Write(record)
	_, remote := l.peer.Read(make([]byte, 1))
	if remote == nil {
		t.Fatal("crypto/tls took a record with a false tag")
	}
	_, got := l.receive(1)
	if want := (&Error{Alert: alertBadRecordMAC, Remote: true}); !errors.Is(got, alertBadRecordMAC) || got.Error() != want.Error() {
		t.Errorf("receive() = %v, want %v", got, want)
	}
	if b := l.SealAlert(nil, got); len(b) > 0 {
		t.Errorf("an alert is answered with %d bytes", len(b))
	}

	l = newLink(t, true, aesgcm.New)
	_, err = l.Open(make([]byte, 100), append([]byte{typeApplication, 3, 3, 0, 20}, make([]byte, 20)...))
	if want := "local error: tls: bad record MAC"; err == nil || err.Error() != want {
		t.Fatalf("Open() = %v, want %s", err, want)
	}
	l.conn.Write(l.SealAlert(make([]byte, 0, Room(0)), err))
	_, remote = l.peer.Read(make([]byte, 1))
	if want := "remote error: tls: bad record MAC"; remote == nil || remote.Error() != want {
		t.Errorf("the peer's Read() = %v, want %s", remote, want)
	}
	if _, again := l.Open(make([]byte, 100), record); !errors.Is(again, err) {
		t.Errorf("Open() after an error = %v, want the same again", again)
	}
}

// What is no session of ours stays with crypto/tls.
func TestNew_Unsupported(t *testing.T) {
	good := func() (*tls.ConnectionState, *Secrets) {
		return &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, HandshakeComplete: true},
			&Secrets{client: make([]byte, 32), server: make([]byte, 32)}
	}
	for name, spoil := range map[string]func(*tls.ConnectionState, *Secrets){
		"TLS 1.2":    func(c *tls.ConnectionState, _ *Secrets) { c.Version = tls.VersionTLS12 },
		"ChaCha20":   func(c *tls.ConnectionState, _ *Secrets) { c.CipherSuite = tls.TLS_CHACHA20_POLY1305_SHA256 },
		"unfinished": func(c *tls.ConnectionState, _ *Secrets) { c.HandshakeComplete = false },
		"no secret":  func(_ *tls.ConnectionState, s *Secrets) { s.server = nil },
	} {
		state, secrets := good()
		spoil(state, secrets)
		if s, err := New(state, secrets, true); s != nil || !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: New() = %v, %v, want ErrUnsupported", name, s, err)
		}
	}
	state, secrets := good()
	secrets.client = secrets.client[:31]
	if _, err := New(state, secrets, true); err == nil || errors.Is(err, ErrUnsupported) {
		t.Errorf("a short secret: New() = %v, want an error of its own", err)
	}
}

func TestSecrets_Write(t *testing.T) {
	var s Secrets
	for _, line := range []string{
		"CLIENT_HANDSHAKE_TRAFFIC_SECRET 00 aa\n", "CLIENT_TRAFFIC_SECRET_0 0011 0102\n", "SERVER_TRAFFIC_SECRET_0 0011 0304\n", "", "\n", "EXPORTER_SECRET",
	} {
		if n, err := s.Write([]byte(line)); n != len(line) || err != nil {
			t.Errorf("Write(%q) = %d, %v", line, n, err)
		}
	}
	if diff := cmp.Diff([][]byte{{1, 2}, {3, 4}}, [][]byte{s.client, s.server}); diff != "" {
		t.Errorf("secrets (-want +got):\n%s", diff)
	}
	if _, err := s.Write([]byte("SERVER_TRAFFIC_SECRET_0 00 0x\n")); err == nil {
		t.Error("Write() of a secret that is none succeeds")
	}
}

// Nothing is allocated for a record.
func TestSession_Allocations(t *testing.T) {
	eachAEAD(t, func(t *testing.T, newAEAD func([]byte) (*aesgcm.AEAD, error)) {
		client, server := pair(t, tls.TLS_AES_128_GCM_SHA256, newAEAD)
		p := make([]byte, 16000)
		dst, out := make([]byte, 0, Room(len(p))), make([]byte, Plain(MaxRecord))
		if n := testing.AllocsPerRun(100, func() {
			record, err := client.Seal(dst, p)
			if err == nil {
				_, err = server.Open(out, record)
			}
			if err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v allocations for a record, want none", n)
		}
	})
}
