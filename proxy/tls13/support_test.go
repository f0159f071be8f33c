package tls13

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"ztunnel/proxy/aesgcm"
)

// eachAEAD runs a test with the fastest AES-GCM and with that of crypto/cipher.
func eachAEAD(t *testing.T, test func(t *testing.T, newAEAD func([]byte) (*aesgcm.AEAD, error))) {
	t.Run("fastest", func(t *testing.T) { test(t, aesgcm.New) })
	t.Run("generic", func(t *testing.T) { test(t, aesgcm.NewGeneric) })
}

// pair is two sessions with each other, under made-up secrets.
func pair(t testing.TB, id uint16, newAEAD func([]byte) (*aesgcm.AEAD, error)) (client, server *Session) {
	t.Helper()
	n := suites[id].hash().Size()
	secrets := &Secrets{client: bytes.Repeat([]byte{1}, n), server: bytes.Repeat([]byte{2}, n)}
	state := &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: id, HandshakeComplete: true}
	client, err := newSession(state, secrets, true, newAEAD)
	if err != nil {
		t.Fatal(err)
	}
	server, err = newSession(state, secrets, false, newAEAD)
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

// link is a session on a connection.
type link struct {
	*Session
	conn net.Conn
	peer *tls.Conn // the other end, if that is crypto/tls
}

// newLink has crypto/tls shake hands with itself and takes over one end.
func newLink(t *testing.T, client bool, newAEAD func([]byte) (*aesgcm.AEAD, error)) *link {
	t.Helper()
	clientConfig, serverConfig := configs(t)
	a, b := connected(t)
	secrets := &Secrets{}
	var ours, peer *tls.Conn
	if client {
		clientConfig.KeyLogWriter = secrets
		ours, peer = tls.Client(a, clientConfig), tls.Server(b, serverConfig)
	} else {
		serverConfig.KeyLogWriter = secrets
		ours, peer = tls.Server(a, serverConfig), tls.Client(b, clientConfig)
	}
	shaken := make(chan error, 1)
	go func() { shaken <- peer.Handshake() }()
	l := takeOver(t, a, ours, secrets, client, newAEAD)
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	l.peer = peer
	return l
}

// takeOver shakes hands and makes the session.
func takeOver(t *testing.T, conn net.Conn, shaker *tls.Conn, secrets *Secrets, client bool, newAEAD func([]byte) (*aesgcm.AEAD, error)) *link {
	t.Helper()
	if err := shaker.Handshake(); err != nil {
		t.Fatal(err)
	}
	state := shaker.ConnectionState()
	s, err := newSession(&state, secrets, client, newAEAD)
	if err != nil {
		t.Fatal(err)
	}
	return &link{Session: s, conn: conn}
}

// connected is a TCP connection with itself.
func connected(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// send seals and writes p.
func (l *link) send(t *testing.T, p []byte) {
	t.Helper()
	b, err := l.Seal(make([]byte, 0, Room(len(p))), p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

// receive reads and opens records until n bytes of the application have come.
func (l *link) receive(n int) ([]byte, error) {
	var got []byte
	out := make([]byte, Plain(MaxRecord))
	for len(got) < n {
		record := make([]byte, MaxRecord)
		if _, err := io.ReadFull(l.conn, record[:HeaderSize]); err != nil {
			return got, err
		}
		record = record[:RecordLen(record)]
		if _, err := io.ReadFull(l.conn, record[HeaderSize:]); err != nil {
			return got, err
		}
		m, err := l.Open(out, record)
		if err != nil {
			return got, err
		}
		got = append(got, out[:m]...)
	}
	return got, nil
}

func configs(t *testing.T) (client, server *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	client = &tls.Config{RootCAs: roots, ServerName: "test", MinVersion: tls.VersionTLS13}
	server = &tls.Config{
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		SessionTicketsDisabled: true,
	}
	return client, server
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
