package identity

import (
	"context"
	"crypto/x509"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"ztunnel/telemetry/connection"
)

// DefaultCRLInterval is how often a CRL looks at its file unless CRLConfig says otherwise.
const DefaultCRLInterval = time.Second

// CRLConfig are the settings of a CRL.
type CRLConfig struct {
	// Path is the file of the certificate revocation lists: any number of them in PEM, or one in DER.
	Path string
	// Interval is how often the file is looked at. A change is taken over once the file stayed as it is for as long. 0 means
	// DefaultCRLInterval.
	Interval time.Duration
	// Log gets what becomes of the file. Nil logs nothing.
	Log *slog.Logger
}

// CRL refuses and reports peers whose certificates were revoked: those that handshake, through TLSOptions.Revocation, and
// those whose tunnels were open before, through Track.
//
// Of a peer's chain every certificate below the root is looked up in the lists that its issuer signed. What no list says
// anything about is good, and a list stays in force beyond its nextUpdate: both as in the reference. A peer is revoked if
// each of its chains to a root of ours has a revoked certificate.
//
// A file that is missing at start is read at the first handshake after it came. While it cannot be parsed, the lists from
// before stay in force; the metrics of Register tell of it.
//
// A nil CRL checks nothing and costs nothing; all methods may be called. A CRL is safe for concurrent use.
type CRL struct {
	cfg   CRLConfig
	lists atomic.Pointer[revocations] // in force; nil before the first are loaded

	loading sync.Mutex // held while the file is looked at and lists are put in force
	file    crlFile

	loads    [2]atomic.Uint64 // of the file, by result
	rejected [reporters]atomic.Uint64
	lost     [reporters]atomic.Uint64 // tunnels that could not be tracked

	mu       sync.Mutex // guards what follows
	tunnels  map[*tracked]struct{}
	tracking [reporters]int64 // of them
}

// reporters is the number of sides of a connection.
const reporters = 2

// The results of loading the file.
const (
	loadSuccess = iota
	loadError
)

// NewCRL returns a CRL. The file is first read by Run or by the first handshake, whichever comes first.
func NewCRL(cfg CRLConfig) *CRL {
	if cfg.Interval <= 0 {
		cfg.Interval = DefaultCRLInterval
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &CRL{cfg: cfg, file: crlFile{path: cfg.Path}, tunnels: make(map[*tracked]struct{})}
}

// Run follows the file until ctx ends, and returns nil. It must be called once. The functions given to Track are called
// from here. On a nil CRL it returns at once.
func (c *CRL) Run(ctx context.Context) error {
	if c == nil {
		return nil
	}
	ticker := time.NewTicker(c.cfg.Interval)
	defer ticker.Stop()
	for {
		c.poll()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// poll looks at the file, and ends the tunnels of peers that turn out to be revoked.
func (c *CRL) poll() {
	if c.load() {
		c.sweep()
	}
}

// load puts the lists of the file in force if they are new, and reports whether they are.
func (c *CRL) load() bool {
	c.loading.Lock()
	defer c.loading.Unlock()
	lists, err := c.file.poll(c.lists.Load() == nil)
	if err != nil {
		c.fileFailed(err)
		return false
	}
	if lists == nil {
		return false
	}
	c.lists.Store(lists)
	c.loads[loadSuccess].Add(1)
	c.cfg.Log.Info("certificate revocation lists loaded", slog.String("path", c.cfg.Path),
		slog.Int("lists", lists.count), slog.Int("revoked", lists.entries))
	return true
}

// fileFailed tells of a file that is of no use.
func (c *CRL) fileFailed(err error) {
	if isMissing(err) && c.lists.Load() == nil {
		c.cfg.Log.Warn("crl file not found, will retry on first validation", slog.String("path", c.cfg.Path))
		return
	}
	c.loads[loadError].Add(1)
	text := "crl file cannot be used; the lists loaded before stay in force"
	if c.lists.Load() == nil {
		text = "crl file cannot be used; NO certificate is checked until it can"
	}
	c.cfg.Log.Error(text, slog.String("path", c.cfg.Path), slog.Any("error", err))
}

// current returns the lists in force; nil if there are none yet. As long as there are none it looks for the file.
func (c *CRL) current() *revocations {
	if lists := c.lists.Load(); lists != nil {
		return lists
	}
	c.poll()
	return c.lists.Load()
}

// check judges the verified chains of a peer in a handshake. The error is a *RevokedError.
func (c *CRL) check(chains [][]*x509.Certificate, by connection.Reporter) error {
	if c == nil {
		return nil
	}
	if err := c.current().check(chains); err != nil {
		c.rejected[by].Add(1)
		return err
	}
	return nil
}
