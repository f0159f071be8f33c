package hbone

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
)

// below is the connection of a peer whose records are counted, and damaged once
// that is set.
type below struct {
	*net.TCPConn
	records uint64 // written
	damage  atomic.Bool
	read    chan int // of what was read, if set
}

func (b *below) Read(p []byte) (int, error) {
	n, err := b.TCPConn.Read(p)
	if b.read != nil {
		b.read <- n
	}
	return n, err
}

func (b *below) Write(p []byte) (int, error) {
	b.records++
	if b.damage.Load() {
		p = bytes.Clone(p)
		p[len(p)-1] ^= 1
	}
	return b.TCPConn.Write(p)
}

// serveBelow has a server of ours talk to crypto/tls, over a connection that the
// test can get at.
func serveBelow(t *testing.T, cfg *Config, config *tls.Config) (*ServerConn, *script, *below, <-chan error) {
	t.Helper()
	a, b := tcpPair(t)
	under := &below{TCPConn: a}
	peer := tls.Client(under, config)
	shaken := make(chan error, 1)
	go func() { shaken <- peer.Handshake() }()
	sc, err := Server(t.Context(), b, serverTLS(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	under.records = 0
	served := make(chan error, 1)
	go func() { served <- sc.Serve(t.Context(), echo) }()
	p := newScript(t, peer)
	p.greetClient()
	p.wantAlive()
	return sc, p, under, served
}

// A record that was changed on its way ends the tunnel, and the peer is told why.
func TestRecords_Tampered(t *testing.T) {
	eachRecordLayer(t, func(t *testing.T, cfg *Config) {
		_, p, under, served := serveBelow(t, cfg, clientTLS())
		under.damage.Store(true)
		p.conn.Write([]byte("anything"))
		if err := <-served; err == nil || err.Error() != "local error: tls: bad record MAC" {
			t.Errorf("Serve() = %v, want a bad record MAC", err)
		}
		if cfg.CryptoTLS {
			return // its alert stays behind
		}
		_, err := io.Copy(io.Discard, p.conn)
		if want := "remote error: tls: bad record MAC"; err == nil || err.Error() != want {
			t.Errorf("the peer's Read() = %v, want %s", err, want)
		}
	})
}

// A peer's request to update our keys is answered, and what follows is under the
// new keys: crypto/tls can read it.
func TestRecords_KeyUpdate(t *testing.T) {
	var log bytes.Buffer
	config := clientTLS().Clone()
	config.KeyLogWriter = &log
	sc, p, under, _ := serveBelow(t, &Config{PingInterval: -1}, config)
	update := sealByHand(t, log.String(), under.records, []byte{24, 0, 0, 1, 1, 22}) // KeyUpdate, update_requested; a handshake record
	under.read = make(chan int, 100)
	if _, err := under.TCPConn.Write(update); err != nil {
		t.Fatal(err)
	}
	frame := make(chan http2.Frame, 1)
	go func() {
		f, _ := p.fr.ReadFrame()
		frame <- f
	}()
	<-under.read // the answer, which crypto/tls keeps to itself
	sc.Drain()
	if f, ok := (<-frame).(*http2.GoAwayFrame); !ok || f.ErrCode != http2.ErrCodeNo {
		t.Errorf("got %v under the new keys, want a GOAWAY", f)
	}
}

// sealByHand makes one record under the client's first keys (RFC 8446 §5.2, §7.3).
func sealByHand(t *testing.T, keyLog string, seq uint64, inner []byte) []byte {
	t.Helper()
	var secret []byte
	for line := range bytes.Lines([]byte(keyLog)) {
		if f := bytes.Fields(line); string(f[0]) == "CLIENT_TRAFFIC_SECRET_0" {
			secret, _ = hex.DecodeString(string(f[2]))
		}
	}
	expand := func(label string, n int) []byte {
		info := append([]byte{0, byte(n), byte(len("tls13 " + label))}, "tls13 "+label...)
		b, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	block, err := aes.NewCipher(expand("key", 16))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := expand("iv", 12)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^seq)
	header := []byte{23, 3, 3, 0, byte(len(inner) + 16)}
	return aead.Seal(header, nonce, inner, header)
}
