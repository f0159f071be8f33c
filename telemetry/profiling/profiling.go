// Package profiling pushes profiles of the process to a Pyroscope server,
// continuously, if it is told to. It owns the rates of the mutex and block
// profiles while it runs, and the lock that CPU profiles are taken under, which
// the pages that serve profiles on request share. cmd runs it.
package profiling

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"time"

	"github.com/grafana/pyroscope-go"
)

const (
	defaultUploadRate = 15 * time.Second
	// requestTimeout bounds one upload.
	requestTimeout = 10 * time.Second
	// flushTimeout bounds the last uploads when profiling stops or makes room.
	flushTimeout = time.Second

	mutexFraction = 100    // one of so many contended mutexes
	blockRate     = 10_000 // nanoseconds; shorter waits are sampled
)

// Config configures a [Profiler].
type Config struct {
	Log *slog.Logger // nil writes nothing
	// ServerAddress is the URL of the server; empty turns profiling off.
	ServerAddress   string
	ApplicationName string // empty is "ztunnel"
	// Tags are labels of all profiles, such as node, pod and version. Empty
	// values are left out.
	Tags                             map[string]string
	BasicAuthUser, BasicAuthPassword string
	TenantID                         string
	// UploadRate is the time between two uploads; zero is 15 s.
	UploadRate time.Duration
	// Dial opens the connections, e.g. through the mesh; nil is a plain dial.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Profiler pushes profiles: CPU, allocations, memory in use, goroutines,
// contended mutexes and blocking.
type Profiler struct {
	cfg  Config
	url  *url.URL // of the server; nil with profiling turned off
	lock *CPULock
	log  *slog.Logger
}

// New checks the configuration. The lock is shared with whoever else takes CPU
// profiles.
func New(cfg Config, lock *CPULock) (*Profiler, error) {
	p := &Profiler{cfg: cfg, lock: lock, log: cfg.Log}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.cfg.ApplicationName == "" {
		p.cfg.ApplicationName = "ztunnel"
	}
	if p.cfg.UploadRate <= 0 {
		p.cfg.UploadRate = defaultUploadRate
	}
	if cfg.ServerAddress != "" {
		u, err := url.Parse(cfg.ServerAddress)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("push profiles: %q is not an http or https URL", cfg.ServerAddress)
		}
		p.url = u
	}
	return p, nil
}

// Run pushes profiles until ctx ends, and returns when everything it started
// has ended; what was gathered last is pushed within a second or lost. With
// profiling turned off it returns at once. A server that does not answer costs
// profiles, nothing else.
func (p *Profiler) Run(ctx context.Context) error {
	if p.cfg.ServerAddress == "" {
		return nil
	}
	before := runtime.SetMutexProfileFraction(mutexFraction)
	runtime.SetBlockProfileRate(blockRate)
	defer runtime.SetMutexProfileFraction(before)
	defer runtime.SetBlockProfileRate(0)
	for {
		yield, err := p.lock.lockYielding(ctx)
		if err != nil {
			return nil // ctx has ended
		}
		err = p.session(ctx, yield)
		p.lock.Unlock()
		if err != nil { // no reason to end what is profiled
			p.log.Error("profiles are not pushed", "error", err)
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// session profiles until ctx ends or somebody else wants the lock.
func (p *Profiler) session(ctx context.Context, yield <-chan struct{}) error {
	uploads, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	transport := &http.Transport{DialContext: p.cfg.Dial, MaxConnsPerHost: 2, IdleConnTimeout: 90 * time.Second}
	defer transport.CloseIdleConnections()
	tags := map[string]string{}
	for name, value := range p.cfg.Tags {
		if value != "" {
			tags[name] = value
		}
	}
	session, err := pyroscope.Start(pyroscope.Config{
		ApplicationName: p.cfg.ApplicationName, Tags: tags, ServerAddress: p.cfg.ServerAddress,
		BasicAuthUser: p.cfg.BasicAuthUser, BasicAuthPassword: p.cfg.BasicAuthPassword, TenantID: p.cfg.TenantID,
		UploadRate: p.cfg.UploadRate, Logger: logger{p.log},
		DisableGCRuns: true, // no collection only for a profile
		HTTPClient: &client{ctx: uploads, server: p.url, http: http.Client{
			Transport: transport, Timeout: requestTimeout,
			// A redirect would drop the credentials and hide a wrong address.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}},
		ProfileTypes: []pyroscope.ProfileType{
			pyroscope.ProfileCPU, pyroscope.ProfileAllocObjects, pyroscope.ProfileAllocSpace,
			pyroscope.ProfileInuseObjects, pyroscope.ProfileInuseSpace, pyroscope.ProfileGoroutines,
			pyroscope.ProfileMutexCount, pyroscope.ProfileMutexDuration,
			pyroscope.ProfileBlockCount, pyroscope.ProfileBlockDuration,
		},
	})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-yield:
	}
	defer time.AfterFunc(flushTimeout, giveUp).Stop()
	session.Flush(true)
	return session.Stop()
}

// client gives up its requests when its context ends. Whatever server the
// library means to send to, they go to the configured one: the library lets
// PYROSCOPE_ADHOC_SERVER_ADDRESS in the environment override it, and would send
// the credentials there.
type client struct {
	ctx    context.Context
	server *url.URL
	http   http.Client
}

// Do sends a request.
func (c *client) Do(req *http.Request) (*http.Response, error) {
	req = req.Clone(c.ctx)
	req.URL.Scheme, req.URL.Host, req.URL.User, req.Host = c.server.Scheme, c.server.Host, c.server.User, ""
	return c.http.Do(req)
}

// logger passes on what the library logs, quietly: a server that is away is
// worth a warning, the rest is for debugging.
type logger struct{ log *slog.Logger }

// Infof implements the library's logger.
func (l logger) Infof(format string, args ...any) { l.Debugf(format, args...) }

// Debugf implements the library's logger.
func (l logger) Debugf(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug(fmt.Sprintf(format, args...))
	}
}

// Errorf implements the library's logger.
func (l logger) Errorf(format string, args ...any) { l.log.Warn(fmt.Sprintf(format, args...)) }
