package hbone

import (
	"crypto/tls"

	"ztunnel/proxy/tls13"
)

// overhear returns a copy of config for one handshake, whose traffic secrets the
// result takes; nil if the records have to stay with crypto/tls.
func overhear(config *tls.Config, client bool) (*tls.Config, *tls13.Secrets) {
	config = config.Clone()
	config.DynamicRecordSizingDisabled = true
	// Tickets would use up numbers of records that we have not seen.
	if config.KeyLogWriter != nil || !client && !config.SessionTicketsDisabled {
		return config, nil
	}
	secrets := &tls13.Secrets{}
	config.KeyLogWriter = secrets
	if choose := config.GetConfigForClient; choose != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen == nil || err != nil || chosen.KeyLogWriter != nil || !chosen.SessionTicketsDisabled {
				return chosen, err
			}
			chosen = chosen.Clone()
			chosen.KeyLogWriter = secrets
			return chosen, nil
		}
	}
	return config, secrets
}

// takeOver has a session protect the records from now on, if it can. The
// handshake is done and nothing was read or written since.
func (r *records) takeOver(state *tls.ConnectionState, secrets *tls13.Secrets, client bool) {
	if secrets == nil || r.recLeft > 0 {
		return
	}
	session, err := tls13.New(state, secrets, client)
	if err != nil {
		return // crypto/tls can do all that it has negotiated
	}
	r.session, r.tls = session, nil
}

// open is read by the session.
func (r *records) open(p []byte) (n int, err error) {
	n = r.takeLeft(p)
	for !r.more && r.complete() {
		size := r.recordLen()
		to := p[n:]
		if need := tls13.Plain(min(size, tls13.MaxRecord)); len(to) < need {
			if n > 0 {
				break
			}
			r.left = takeBuffer(classWarm)
			to = r.left.b
		}
		m, err := r.session.Open(to, r.in.buf.b[r.in.r:min(r.in.w, r.in.r+size)])
		if err != nil {
			r.dropLeft()
			if n > 0 {
				r.readErr = err
				return n, nil
			}
			return 0, err
		}
		r.in.r += size
		r.in.drop()
		if r.left != nil {
			r.left.r, r.left.w = 0, m
			m = r.takeLeft(p)
		}
		n += m
	}
	return n, nil
}

// takeLeft moves plaintext that did not fit before to p.
func (r *records) takeLeft(p []byte) int {
	if r.left == nil {
		return 0
	}
	n := copy(p, r.left.b[r.left.r:r.left.w])
	r.left.r += n
	if r.more = r.left.r < r.left.w; !r.more {
		r.dropLeft()
	}
	return n
}

func (r *records) dropLeft() {
	if r.left != nil {
		r.left.release()
	}
	r.left, r.more = nil, false
}

// seal is append by the session. The caller holds the write lock, as for all
// that follows.
func (r *records) seal(p []byte) error {
	n := tls13.Room(len(p))
	if r.outW+n > classSize[classHuge] {
		if _, err := r.flush(true); err != nil {
			return err
		}
	}
	r.reserve(n)
	b, err := r.session.Seal(r.out.b[:r.outW], p)
	r.outW = len(b)
	return err
}

// owes reports whether a key update is due, which an empty append makes.
func (r *records) owes() bool { return r.session != nil && r.session.Owes() }

func (r *records) sealClose() error {
	r.reserve(tls13.Room(0))
	r.outW = len(r.session.SealClose(r.out.b[:r.outW]))
	return nil
}

// sealAlert appends the alert that is owed for an error of read, if one is.
func (r *records) sealAlert(err error) {
	if r.session != nil {
		r.reserve(tls13.Room(0))
		r.outW = len(r.session.SealAlert(r.out.b[:r.outW], err))
	}
}
