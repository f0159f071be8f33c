package hbone

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"ztunnel/proxy/tls13"
)

const (
	recordHeader = tls13.HeaderSize
	maxPlaintext = tls13.MaxPlaintext
	// maxRecord is more than any record that crypto/tls accepts.
	maxRecord = recordHeader + maxPlaintext + 2048
	// flushAt is how much is gathered before a flush although another writer
	// is about to write.
	flushAt = 256 << 10
)

// rawIO is the byte transport below the record layer. Reads are made by one
// goroutine and writes under the tunnel's write lock.
type rawIO interface {
	// fill waits until something can be read and reads once into in. A TCP
	// implementation holds no buffer while it waits with an empty in.
	fill(in *inbox) error
	// write returns how much of p was taken: all of it or an error if block is
	// set, else what goes without waiting, possibly nothing.
	write(p []byte, block bool) (int, error)
}

// inbox is what was received and not yet handled, b[r:w] of buf: ciphertext, or
// the plaintext of frames.
type inbox struct {
	buf   *buffer
	r, w  int
	class int // of the next buffer
}

// room makes space for a read of at least one whole record behind what is left.
func (in *inbox) room() {
	switch {
	case in.buf == nil:
		in.buf = takeBuffer(in.class)
	case in.buf.class < in.class: // a record's beginning may be left all the time
		b := takeBuffer(in.class)
		in.w = copy(b.b, in.buf.b[in.r:in.w])
		in.r = 0
		in.buf.release()
		in.buf = b
	case in.r > 0:
		copy(in.buf.b, in.buf.b[in.r:in.w])
		in.w -= in.r
		in.r = 0
	}
}

// drop gives the buffer back if it is empty.
func (in *inbox) drop() {
	if in.buf != nil && in.r == in.w {
		in.buf.release()
		in.buf, in.r, in.w = nil, 0, 0
	}
}

// discard forgets what is in it.
func (in *inbox) discard() {
	in.r = in.w
	in.drop()
}

// adapt chooses the size of the next buffer after a read of n bytes, of which
// full need more room.
func (in *inbox) adapt(n, full int) {
	if n >= full && in.class < classHuge {
		in.class++
	} else if n < classSize[in.class]/16 && in.class > classWarm {
		in.class--
	}
}

// records is a TLS connection whose reads end at record borders, so that all
// complete records can be decrypted in one go without ever waiting for more,
// and whose written records are gathered until they are flushed. It is the
// net.Conn that crypto/tls sees. After the handshake either the session protects
// the records, or crypto/tls goes on to.
type records struct {
	net.Conn // below: addresses and Close
	io       rawIO
	tls      *tls.Conn
	session  *tls13.Session

	// Of the reader.
	left     *buffer // plaintext that did not fit; of the session
	in       inbox
	recLeft  int  // bytes of the current record not yet handed to crypto/tls
	blocking bool // Read may wait: only during the handshake
	more     bool // crypto/tls holds plaintext that did not fit
	readErr  error

	// gather is set when the handshake is done, and not changed after.
	gather bool
	// Written records: sending goes out first and belongs to the holder of the
	// write lock, out is being filled under outMu.
	outMu        sync.Mutex
	out          *buffer
	outW         int
	sending      *buffer
	sendR, sendW int
}

// errAgain tells crypto/tls that a record is not there yet. Being temporary, it
// does not end the connection.
var errAgain error = againError{}

type againError struct{}

func (againError) Error() string   { return "no complete record yet" }
func (againError) Timeout() bool   { return true }
func (againError) Temporary() bool { return true }

func newRecords(conn net.Conn) *records {
	r := &records{Conn: conn, blocking: true, in: inbox{class: classWarm}}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if io, err := newTCPIO(tcp); err == nil {
			r.io = io
			return r
		}
	}
	r.io = &connIO{conn}
	return r
}

// SetDeadline, SetReadDeadline and SetWriteDeadline hide those of the connection
// from crypto/tls, which would leave an expired one behind when it closes.
func (r *records) SetDeadline(time.Time) error      { return nil }
func (r *records) SetReadDeadline(time.Time) error  { return nil }
func (r *records) SetWriteDeadline(time.Time) error { return nil }

// Read gives crypto/tls bytes of one record only.
func (r *records) Read(p []byte) (int, error) {
	for r.in.w == r.in.r || r.recLeft == 0 && r.in.w-r.in.r < recordHeader {
		if !r.blocking {
			return 0, errAgain
		}
		if err := r.io.fill(&r.in); err != nil {
			return 0, err
		}
	}
	if r.recLeft == 0 {
		r.recLeft = r.recordLen()
	}
	n := copy(p, r.in.buf.b[r.in.r:min(r.in.w, r.in.r+r.recLeft)])
	r.in.r += n
	r.recLeft -= n
	r.in.drop()
	return n, nil
}

// recordLen is the length of the record at the front, whose header is there.
func (r *records) recordLen() int {
	return tls13.RecordLen(r.in.buf.b[r.in.r : r.in.r+recordHeader])
}

// complete reports whether crypto/tls can be called without waiting: a whole
// record is there, or one so long that it will be refused.
func (r *records) complete() bool {
	have := r.in.w - r.in.r
	if have < recordHeader {
		return false
	}
	n := r.recordLen()
	return have >= n || n > maxRecord
}

// wait blocks until plaintext can probably be read. No plaintext buffer is
// needed meanwhile.
func (r *records) wait() error {
	for !r.more && r.readErr == nil && !r.complete() {
		if err := r.io.fill(&r.in); err != nil {
			return err
		}
	}
	return nil
}

// read decrypts what is there into p without waiting, which should have room
// for several records. It may return 0 without error.
func (r *records) read(p []byte) (n int, err error) {
	if r.readErr != nil {
		return 0, r.readErr
	}
	if r.session != nil {
		return r.open(p)
	}
	for r.more || r.complete() {
		if n > 0 && len(p)-n < maxPlaintext {
			break
		}
		m, err := r.tls.Read(p[n:])
		n += m
		r.more = err == nil && n == len(p)
		if err != nil && !errors.Is(err, errAgain) {
			if n > 0 {
				r.readErr = err
				return n, nil
			}
			return 0, err
		}
	}
	return n, nil
}

// Write takes one record from crypto/tls, in the order of their numbers: its
// caller holds crypto/tls's own lock. That is a writer, who also holds the
// tunnel's, or the reader, when the peer's record asks for an answer.
func (r *records) Write(p []byte) (int, error) {
	if !r.gather {
		return r.io.write(p, true)
	}
	r.outMu.Lock()
	r.reserve(len(p))
	r.outW += copy(r.out.b[r.outW:], p)
	r.outMu.Unlock()
	return len(p), nil
}

// reserve makes room in out for n more bytes.
func (r *records) reserve(n int) {
	if r.out == nil {
		r.out = newBuffer(n)
	} else if r.outW+n > len(r.out.b) {
		b := newBuffer(r.outW + n)
		copy(b.b, r.out.b[:r.outW])
		r.out.release()
		r.out = b
	}
}

// append encrypts p. Nothing is sent before flush, unless too much is gathered:
// then it waits for the socket.
func (r *records) append(p []byte) error {
	if r.session != nil {
		return r.seal(p)
	}
	n := len(p) + (len(p)/maxPlaintext+1)*64
	r.outMu.Lock()
	if r.outW+n > classSize[classHuge] {
		r.outMu.Unlock()
		if _, err := r.flush(true); err != nil {
			return err
		}
		r.outMu.Lock()
	}
	r.reserve(n)
	r.outMu.Unlock()
	_, err := r.tls.Write(p)
	return err
}

// buffered is how much waits for flush. The caller holds the write lock.
func (r *records) buffered() int {
	r.outMu.Lock()
	defer r.outMu.Unlock()
	return r.outW + r.sendW - r.sendR
}

// answered reports whether the reader, inside TLS, has or owes something to write
// that nobody may know of. It may be called without the write lock.
func (r *records) answered() bool {
	if r.session != nil {
		return r.session.Owes()
	}
	r.outMu.Lock()
	defer r.outMu.Unlock()
	return r.outW > 0
}

// flush sends what is gathered. Without block it reports whether all went out.
func (r *records) flush(block bool) (bool, error) {
	for {
		if r.sending == nil {
			r.outMu.Lock()
			r.sending, r.sendR, r.sendW = r.out, 0, r.outW
			r.out, r.outW = nil, 0
			r.outMu.Unlock()
			if r.sending == nil {
				return true, nil
			}
		}
		n, err := r.io.write(r.sending.b[r.sendR:r.sendW], block)
		r.sendR += n
		if err != nil {
			return false, err
		}
		if r.sendR < r.sendW {
			return false, nil
		}
		r.sending.release()
		r.sending, r.sendR, r.sendW = nil, 0, 0
	}
}

// closeWrite appends close_notify.
func (r *records) closeWrite() error {
	if r.session != nil {
		return r.sealClose()
	}
	return r.tls.CloseWrite()
}

// connIO is rawIO over any connection, by blocking reads and writes.
type connIO struct{ conn net.Conn }

func (c *connIO) fill(in *inbox) error {
	in.room()
	space := in.buf.b[in.w:]
	n, err := c.conn.Read(space)
	if n > 0 {
		in.w += n
		in.adapt(n, len(space))
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

func (c *connIO) write(p []byte, block bool) (int, error) {
	if !block {
		return 0, nil
	}
	return c.conn.Write(p)
}
