package local

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"

	"ztunnel/proxy/rbac"
	"ztunnel/proxy/workload"
)

// MaxSize is how large a configuration may be, in bytes. A larger one is an error.
const MaxSize = 256 << 20

// Config configures a Source. It is not changed after use.
type Config struct {
	Path     string          // of the file; "" if the configuration is inline
	Inline   string          // the configuration itself; used if Path is ""
	Store    *workload.Store // gets the workloads and services
	Policies *rbac.Set       // gets the policies
	Log      *slog.Logger
	Metrics  *Metrics // nil counts nothing
}

// Source is a local configuration: where it comes from, what it fills, and what was loaded last. Load goes before Watch;
// both are for one goroutine at a time. Loaded may be called by any.
type Source struct {
	cfg    Config
	tried  [sha256.Size]byte // digest of the content that was tried last, good or bad
	failed string            // text of the last error of reading the file; "" if it was read
	loaded atomic.Pointer[Content]
}

// New returns a source from which nothing was loaded yet.
func New(cfg Config) *Source {
	if cfg.Metrics == nil {
		cfg.Metrics = &Metrics{}
	}
	s := &Source{cfg: cfg}
	s.loaded.Store(&Content{})
	return s
}

// Loaded returns what was loaded last; it is the staticConfig of the config dump. It is never nil.
func (s *Source) Loaded() *Content { return s.loaded.Load() }

// Load reads the configuration and replaces the content of the store and of the policy set by it. On an error, which
// names the file and the field, both are left as they are. Where no
// configuration is given, it does nothing.
func (s *Source) Load() error {
	if s.cfg.Path == "" && s.cfg.Inline == "" {
		return nil
	}
	data, err := s.read()
	if err != nil {
		return err
	}
	c, err := s.load(data)
	if err != nil {
		return err
	}
	s.cfg.Log.LogAttrs(context.Background(), slog.LevelInfo, "local config initialized",
		slog.Int("num_workloads", len(c.Workloads)), slog.Int("num_policies", len(c.Policies)))
	return nil
}

func (s *Source) read() ([]byte, error) {
	if s.cfg.Path == "" {
		return []byte(s.cfg.Inline), nil
	}
	data, err := readFile(s.cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("read local config: %w", err)
	}
	return data, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%s: more than %d bytes", path, MaxSize)
	}
	return data, nil
}

// load parses data and, if it is good, puts it into force.
func (s *Source) load(data []byte) (*Content, error) {
	s.tried = sha256.Sum256(data)
	c, err := Parse(data)
	if err != nil {
		if s.cfg.Path != "" {
			return nil, fmt.Errorf("local config %s: %w", s.cfg.Path, err)
		}
		return nil, fmt.Errorf("local config: %w", err)
	}
	for _, w := range c.Warnings {
		s.cfg.Log.Warn("local config: " + w)
	}
	c.Apply(s.cfg.Store, s.cfg.Policies)
	s.loaded.Store(c)
	return c, nil
}

// reload reads the file anew and puts it into force if its content is another one than the last. What is wrong is logged
// and counted once, until something else is wrong.
func (s *Source) reload() {
	data, err := s.read()
	if err != nil {
		// A file may be away for a moment while it is replaced; its content has not changed by that.
		if text := err.Error(); text != s.failed {
			s.failed = text
			s.refuse(err)
		}
		return
	}
	s.failed = ""
	if sha256.Sum256(data) == s.tried {
		return
	}
	c, err := s.load(data)
	if err != nil {
		s.refuse(err)
		return
	}
	s.cfg.Metrics.reloaded.Add(1)
	s.cfg.Log.LogAttrs(context.Background(), slog.LevelInfo, "local config reloaded",
		slog.Int("num_workloads", len(c.Workloads)), slog.Int("num_policies", len(c.Policies)))
}

func (s *Source) refuse(err error) {
	s.cfg.Metrics.refused.Add(1)
	s.cfg.Log.LogAttrs(context.Background(), slog.LevelError, "local config not reloaded, the old one stays in force",
		slog.String("error", err.Error()))
}
