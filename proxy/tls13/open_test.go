package tls13

import (
	"bytes"
	"crypto/tls"
	"errors"
	"testing"

	"ztunnel/proxy/aesgcm"
)

// inner is a record's type and content.
type inner struct {
	kind byte
	p    []byte
}

// Everything that a peer may do wrong ends the session with its alert.
func TestSession_Faults(t *testing.T) {
	ticket := []byte{messageTicket, 0, 0, 2, 9, 9}
	update := []byte{messageKeyUpdate, 0, 0, 1, updateNotRequested}
	for name, tt := range map[string]struct {
		records []inner
		want    tls.AlertError
	}{
		"an unknown type":               {[]inner{{99, []byte{1}}}, alertUnexpectedMessage},
		"a type of zero":                {[]inner{{0, []byte{0, 0}}}, alertUnexpectedMessage},
		"change_cipher_spec":            {[]inner{{20, []byte{1}}}, alertUnexpectedMessage},
		"an alert cut short":            {[]inner{{typeAlert, []byte{2}}}, alertUnexpectedMessage},
		"two alerts in a record":        {[]inner{{typeAlert, []byte{1, 90, 1, 90}}}, alertUnexpectedMessage},
		"no handshake message":          {[]inner{{typeHandshake, nil}}, alertUnexpectedMessage},
		"a request for a certificate":   {[]inner{{typeHandshake, []byte{13, 0, 0, 0}}}, alertUnexpectedMessage},
		"a long message":                {[]inner{{typeHandshake, []byte{messageTicket, 255, 0, 0}}}, alertDecodeError},
		"a key update of two bytes":     {[]inner{{typeHandshake, []byte{messageKeyUpdate, 0, 0, 2, 0, 0}}}, alertDecodeError},
		"a key update of another kind":  {[]inner{{typeHandshake, []byte{messageKeyUpdate, 0, 0, 1, 2}}}, alertIllegalParameter},
		"a key update not at the end":   {[]inner{{typeHandshake, append(bytes.Clone(update), ticket...)}}, alertUnexpectedMessage},
		"data within a message":         {[]inner{{typeHandshake, update[:2]}, {typeApplication, []byte{1}}}, alertUnexpectedMessage},
		"data within a ticket":          {[]inner{{typeHandshake, ticket[:5]}, {typeApplication, []byte{1}}}, alertUnexpectedMessage},
		"records without anything":      {repeat(inner{typeApplication, nil}, maxUseless+1), alertUnexpectedMessage},
		"user_canceled again and again": {repeat(inner{typeAlert, []byte{1, 90}}, maxUseless+1), alertUnexpectedMessage},
		"tickets and nothing else":      {repeat(inner{typeHandshake, ticket}, maxUseless+1), alertUnexpectedMessage},
		"a ticket byte by byte":         {append([]inner{{typeHandshake, []byte{messageTicket, 0, 0, 99}}}, repeat(inner{typeHandshake, []byte{1}}, maxUseless)...), alertUnexpectedMessage},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := pair(t, tls.TLS_AES_128_GCM_SHA256, aesgcm.New)
			out := make([]byte, Plain(MaxRecord))
			for i, r := range tt.records {
				_, err := client.Open(out, server.seal(make([]byte, 0, 1000), r.kind, r.p))
				if last := i == len(tt.records)-1; err != nil && !last {
					t.Fatalf("record %d: %v", i, err)
				} else if last && (!errors.Is(err, tt.want) || errors.As(err, new(*Error)) == false) {
					t.Errorf("Open() = %v, want %v", err, tt.want)
				}
			}
		})
	}
}

func repeat(r inner, n int) []inner {
	records := make([]inner, n)
	for i := range records {
		records[i] = r
	}
	return records
}

// What stands in the clear is checked before anything is decrypted.
func TestSession_FaultyHeaders(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(record []byte) []byte
		want  tls.AlertError
	}{
		"type":           {func(r []byte) []byte { r[0] = typeHandshake; return r }, alertUnexpectedMessage},
		"version":        {func(r []byte) []byte { r[2] = 4; return r }, alertProtocolVersion},
		"too long":       {func(r []byte) []byte { r[3], r[4] = 0x41, 1; return r[:HeaderSize] }, alertRecordOverflow},
		"too short":      {func(r []byte) []byte { r[3], r[4] = 0, 16; return r[:HeaderSize+16] }, alertBadRecordMAC},
		"empty":          {func(r []byte) []byte { r[3], r[4] = 0, 0; return r[:HeaderSize] }, alertBadRecordMAC},
		"the same again": {func(r []byte) []byte { return nil }, alertBadRecordMAC},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := pair(t, tls.TLS_AES_256_GCM_SHA384, aesgcm.New)
			out := make([]byte, Plain(MaxRecord))
			record, err := server.Seal(make([]byte, 0, Room(100)), make([]byte, 100))
			if err != nil {
				t.Fatal(err)
			}
			spoilt := tt.spoil(bytes.Clone(record))
			if spoilt == nil {
				if _, err := client.Open(out, record); err != nil {
					t.Fatal(err)
				}
				spoilt = record
			}
			if _, err := client.Open(out, spoilt); !errors.Is(err, tt.want) {
				t.Errorf("Open() = %v, want %v", err, tt.want)
			}
		})
	}
}

// A content that is longer than allowed cannot hide behind padding that is not
// there, and padding is taken off.
func TestSession_Padding(t *testing.T) {
	client, server := pair(t, tls.TLS_AES_128_GCM_SHA256, aesgcm.New)
	out := make([]byte, Plain(MaxRecord))
	padded := append([]byte("hello"), typeApplication, 0, 0, 0)
	if n, err := client.Open(out, server.seal(make([]byte, 0, 100), 0, padded)); err != nil || string(out[:n]) != "hello" {
		t.Errorf("Open() = %q, %v, want hello", out[:n], err)
	}
	long := make([]byte, MaxPlaintext+1)
	if _, err := client.Open(out, server.seal(make([]byte, 0, MaxRecord), typeApplication, long)); !errors.Is(err, alertRecordOverflow) {
		t.Errorf("Open() of %d bytes = %v, want %v", len(long), err, alertRecordOverflow)
	}
}

// Messages may be cut anywhere and come together.
func TestSession_Messages(t *testing.T) {
	client, server := pair(t, tls.TLS_AES_128_GCM_SHA256, aesgcm.New)
	out := make([]byte, Plain(MaxRecord))
	ticket := []byte{messageTicket, 0, 0, 2, 9, 9}
	messages := append(append(bytes.Clone(ticket), ticket...), messageKeyUpdate, 0, 0, 1, updateRequested)
	for len(messages) > 0 {
		n := min(3, len(messages))
		if _, err := client.Open(out, server.seal(make([]byte, 0, 100), typeHandshake, messages[:n])); err != nil {
			t.Fatal(err)
		}
		messages = messages[n:]
	}
	if client.updates != 1 || !client.Owes() {
		t.Errorf("%d key updates, one owed: %t", client.updates, client.Owes())
	}
	if err := server.out.update(); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Open(out, server.seal(make([]byte, 0, 100), typeApplication, []byte("on"))); err != nil || string(out[:n]) != "on" {
		t.Errorf("Open() under the next key = %q, %v", out[:n], err)
	}
	// A server takes no ticket.
	if _, err := server.Open(out, client.seal(make([]byte, 0, 100), typeHandshake, ticket)); !errors.Is(err, alertUnexpectedMessage) {
		t.Errorf("Open() of a client's ticket = %v", err)
	}
}

// Key updates cost us more than the peer: beyond a few they must be earned.
func TestSession_UpdateFlood(t *testing.T) {
	client, server := pair(t, tls.TLS_AES_128_GCM_SHA256, aesgcm.New)
	out := make([]byte, Plain(MaxRecord))
	send := func(kind byte, p []byte) error {
		_, err := server.Open(out, client.seal(make([]byte, 0, MaxRecord), kind, p))
		return err
	}
	update := func() error {
		err := send(typeHandshake, []byte{messageKeyUpdate, 0, 0, 1, updateNotRequested})
		if err == nil {
			err = client.out.update()
		}
		if err == nil {
			err = send(typeApplication, []byte{1})
		}
		return err
	}
	for i := range freeUpdates {
		if err := update(); err != nil {
			t.Fatalf("update %d: %v", i, err)
		}
	}
	for range bytesPerUpdate / MaxPlaintext {
		if err := send(typeApplication, make([]byte, MaxPlaintext)); err != nil {
			t.Fatal(err)
		}
	}
	if err := update(); err != nil {
		t.Fatalf("an update after %d bytes: %v", bytesPerUpdate, err)
	}
	if err := update(); !errors.Is(err, alertUnexpectedMessage) {
		t.Errorf("one more update = %v, want %v", err, alertUnexpectedMessage)
	}
}

// FuzzOpen gives a session records with any content, split at a byte, which must
// neither panic nor yield bytes that were not application data.
func FuzzOpen(f *testing.F) {
	f.Add([]byte{typeApplication, 2, 'h', 'i'})
	f.Add([]byte{typeHandshake, 6, messageTicket, 0, 0, 2, 9, 9, typeHandshake, 5, messageKeyUpdate, 0, 0, 1, 1})
	f.Add([]byte{typeAlert, 2, 1, 90, typeAlert, 2, 1, 0, typeApplication, 1, 7})
	f.Add([]byte{typeHandshake, 3, messageTicket, 0, 0, typeHandshake, 3, 2, 1, 1})
	f.Fuzz(func(t *testing.T, input []byte) {
		client, server := pair(t, tls.TLS_AES_128_GCM_SHA256, aesgcm.NewGeneric)
		out := make([]byte, Plain(MaxRecord))
		for len(input) >= 2 {
			kind, n := input[0], min(int(input[1]), len(input)-2)
			p := input[2 : 2+n]
			input = input[2+n:]
			updates := client.updates
			m, err := client.Open(out, server.seal(make([]byte, 0, MaxRecord), kind, p))
			if err != nil {
				return
			}
			if client.updates > updates {
				if err := server.out.update(); err != nil {
					t.Fatal(err)
				}
			}
			if m > 0 && (kind != typeApplication || !bytes.Equal(out[:m], p)) && kind != 0 {
				t.Fatalf("type %d with %x became %x", kind, p, out[:m])
			}
		}
	})
}

// FuzzHeader gives a session bytes of the wire, with nothing that could be
// decrypted.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{typeApplication, 3, 3, 0, 17, 1, 2, 3})
	f.Add([]byte{20, 3, 3, 0, 1, 1})
	f.Fuzz(func(t *testing.T, record []byte) {
		if len(record) < HeaderSize || len(record) > MaxRecord {
			return
		}
		client, _ := pair(t, tls.TLS_AES_128_GCM_SHA256, aesgcm.New)
		if n, err := client.Open(make([]byte, Plain(MaxRecord)), record); err == nil {
			t.Fatalf("Open() of %x = %d bytes", record, n)
		}
	})
}
