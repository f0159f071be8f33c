package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"go.opentelemetry.io/otel"

	"ztunnel/admin"
	"ztunnel/proxy"
	"ztunnel/proxy/config"
	"ztunnel/proxy/discovery"
	"ztunnel/proxy/dns"
	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/inpod"
	"ztunnel/proxy/local"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/logging"
	"ztunnel/telemetry/profiles"
	"ztunnel/telemetry/profiling"
	"ztunnel/telemetry/surface"
)

// process is all parts of a running ztunnel, in the order in which they are
// made.
type process struct {
	cfg     *config.Config
	logs    *logging.Logging
	quit    *quitter
	log     *slog.Logger
	started time.Time

	telemetry *telemetry.Telemetry
	recorder  *connection.Recorder
	surface   *surface.Server
	profiler  *profiling.Profiler
	readiness *admin.Readiness
	admin     *admin.Server

	store        *workload.Store
	policies     *rbac.Set
	local        *local.Source
	localMetrics local.Metrics
	discovery    *discovery.Discovery // nil without a control plane
	stateReady   func()               // completes the task of readiness
	certificates *identity.Manager
	ca           *identity.CAClient // nil if certificates are made here
	crl          *identity.CRL      // nil if there is none
	hboneMetrics *hbone.Metrics
	node         *proxy.Node

	// Dedicated mode.
	pod *proxy.Pod
	dns *dns.Server
	// Shared mode.
	pods      *proxy.Pods
	inpod     *inpod.Manager
	podsReady func()      // completes the task of readiness, as it was begun last
	self      *proxy.Self // nil unless the process is a workload of the mesh

	readinessListeners, adminListeners, statsListeners []net.Listener
}

// assemble makes all parts and binds all listeners, but serves nothing. If it
// fails, nothing is left open.
func assemble(ctx context.Context, cfg *config.Config, logs *logging.Logging, quit *quitter, started time.Time) (*process, error) {
	p := &process{cfg: cfg, logs: logs, quit: quit, log: logs.Logger("app"), started: started}
	for _, step := range []func(context.Context) error{
		p.makeReadiness, // first, so that it can tell about all others
		p.makeTelemetry,
		p.makeState,
		p.makeIdentity,
		p.makeDiscovery,
		p.makeAdmin,
		p.makeDataPath,
		p.makeStats, // last, as in the reference
	} {
		if err := step(ctx); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

// close closes what a process that is not run has bound. Closing is best
// effort: there is an error to report already.
func (p *process) close() {
	for _, ln := range slices.Concat(p.readinessListeners, p.adminListeners, p.statsListeners) {
		ln.Close()
	}
	if p.pod != nil {
		_ = p.pod.Close()
	}
	if p.dns != nil {
		_ = p.dns.Close()
	}
	if p.self != nil {
		_ = p.self.Close()
	}
}

func (p *process) makeReadiness(ctx context.Context) error {
	p.readiness = admin.NewReadiness(p.logs.Logger("readiness"), p.started)
	ln, err := p.listen(ctx, p.cfg.ReadinessAddr, "readiness")
	p.readinessListeners = ln
	return err
}

// listen binds an HTTP server of the process, not of a pod.
func (p *process) listen(ctx context.Context, where config.Listen, component string) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, addr := range where.Addrs() {
		lc := net.ListenConfig{KeepAlive: -1}
		lc.SetMultipathTCP(false)
		ln, err := lc.Listen(ctx, "tcp", addr.String())
		if err != nil {
			return listeners, fmt.Errorf("%s: failed to bind to address %s: %w", component, addr, err)
		}
		p.log.Info("listener established", "address", ln.Addr(), "component", component)
		listeners = append(listeners, ln)
	}
	return listeners, nil
}

// makeTelemetry sets up what counts, and who may look at it.
func (p *process) makeTelemetry(ctx context.Context) (err error) {
	p.logSDKErrors()
	p.telemetry, err = telemetry.Setup(ctx, p.telemetryConfig())
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	p.recorder = connection.NewRecorder(connection.Config{
		Log:       p.logs.Logger(logging.ScopeAccess),
		MaxSeries: p.cfg.Telemetry.MetricsMaxSeries, IdleEviction: p.cfg.Telemetry.MetricsIdleEviction,
	})
	lock := &profiling.CPULock{}
	pages := profiles.New(lock)
	p.surface, err = surface.New(surface.Config{
		Exposure: surface.Exposure(p.cfg.Telemetry.Exposure), Surfaces: p.cfg.Telemetry.Surfaces,
		Metrics: p.telemetry.Handler(), Profiles: pages, Log: p.logs.Logger(logging.ScopeTelemetry),
	})
	if err != nil {
		return fmt.Errorf("TELEMETRY_SURFACES: %w", err)
	}
	p.admin = admin.New(admin.Config{
		Log: p.logs.Logger("admin"), Filter: p.logs, Quit: p.quit.explicit, Profiles: pages,
		Metrics: p.surface.Loopback(), Version: buildInfo(), Readiness: p.readiness,
	})
	p.profiler, err = profiling.New(p.profilingConfig(), lock)
	if err != nil {
		return fmt.Errorf("PYROSCOPE_SERVER_ADDRESS: %w", err)
	}
	return errors.Join(
		p.recorder.Register(p.telemetry.Meter("ztunnel/telemetry/connection")),
		p.surface.Register(p.telemetry.Meter("ztunnel/telemetry/surface")),
		p.logs.Register(p.telemetry.Meter("ztunnel/telemetry/logging")),
	)
}

// logSDKErrors routes what the OpenTelemetry SDK reports, which it would print
// to stderr, to the log. Some of it comes with every collection.
func (p *process) logSDKErrors() {
	log, limit := p.logs.Logger(logging.ScopeTelemetry), logging.NewLimiter(time.Minute, 5)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		limit.Log(context.Background(), log, slog.LevelError, "metrics", slog.Any("error", err))
	}))
}

// makeState reads what is known of the mesh at start. A local configuration
// that cannot be read is fatal then.
func (p *process) makeState(context.Context) error {
	p.store = workload.NewStore(workload.Config{NodeName: p.cfg.NodeName, Log: p.logs.Logger("state")})
	p.policies = rbac.NewSet(p.logs.Logger("state"), p.cfg.AuthzInfoLogging)
	p.stateReady = p.readiness.Task("state manager")
	p.local = local.New(local.Config{
		Path: p.cfg.LocalXDSPath, Inline: p.cfg.LocalXDS, Store: p.store, Policies: p.policies, Log: p.logs.Logger("state"),
		Metrics: &p.localMetrics,
	})
	if err := p.local.Load(); err != nil {
		return err
	}
	return p.localMetrics.Register(p.telemetry.Meter("ztunnel/proxy/local"))
}

// makeAdmin fills the config dump and binds the admin server.
func (p *process) makeAdmin(ctx context.Context) (err error) {
	p.admin.Section("config", func() (any, error) { return p.cfg.Dump(), nil })
	p.admin.Section("version", func() (any, error) { return buildInfo(), nil })
	p.admin.Section("workloads", func() (any, error) { return p.store.Workloads(), nil })
	p.admin.Section("services", func() (any, error) { return p.store.DumpServices(), nil })
	p.admin.Section("stagedServices", func() (any, error) { return p.store.StagedEndpoints(), nil })
	p.admin.Section("policies", func() (any, error) { return p.policies.Policies(), nil })
	p.admin.Section("staticConfig", func() (any, error) { return p.local.Loaded(), nil })
	p.admin.Section("certificates", func() (any, error) { return p.certificates.Dump(), nil })
	p.adminListeners, err = p.listen(ctx, p.cfg.AdminAddr, "admin")
	return err
}

// makeStats binds the plain listener of the metrics, where the exposure says so.
func (p *process) makeStats(ctx context.Context) (err error) {
	if !p.surface.HasPlaintext() {
		return nil
	}
	p.statsListeners, err = p.listen(ctx, p.cfg.StatsAddr, "stats")
	return err
}
