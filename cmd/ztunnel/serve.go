package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"ztunnel/proxy/config"
	"ztunnel/telemetry/logging"
)

// flushTimeout bounds how long the last lines of the log may take.
const flushTimeout = time.Second

// serve runs the proxy until it is asked to end and has drained.
func serve(args []string, stdout io.Writer) error {
	start := time.Now()
	cfg, err := config.Load(os.Environ(), args, ".")
	if err != nil {
		return err
	}
	log, filterErr := logging.New(logging.Config{
		Filter: cfg.LogFilter, JSON: cfg.LogJSON, Output: stdout, BlockOnFull: cfg.Telemetry.LogOverflowBlock,
	})
	var writing sync.WaitGroup
	writing.Go(func() { _ = log.Run(context.Background()) }) // ends with Close; it has no error of its own
	app := log.Logger("app")
	if filterErr != nil {
		app.Warn(fmt.Sprintf("RUST_LOG is not understood, using %q", log.Filter()), "error", filterErr)
	}
	err = serveConfig(cfg, log, app, start)
	if err != nil {
		app.Error("ztunnel ends with an error", "error", err)
	}
	flush, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if closeErr := log.Close(flush); closeErr == nil {
		writing.Wait()
	}
	return err
}

// serveConfig assembles the process and runs it to its end.
func serveConfig(cfg *config.Config, log *logging.Logging, app *slog.Logger, start time.Time) error {
	runtime.GOMAXPROCS(cfg.WorkerThreads)
	app.Info("version: " + buildInfo().String())
	raiseFileLimit(app)
	logging.Multiline(app).Info("running with config: " + configText(cfg))
	for _, w := range cfg.Warnings {
		app.Warn(w)
	}
	if err := supported(cfg); err != nil {
		return err
	}
	quit := newQuitter(app)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	p, err := assemble(ctx, cfg, log, quit, start)
	if err != nil {
		return err
	}
	return p.run(ctx)
}

// supported refuses what this version cannot do where doing nothing would be
// taken for it: views that are believed to be scoped, or a push that is believed to
// be encrypted.
func supported(cfg *config.Config) error {
	switch {
	case cfg.Telemetry.ScopesFile != "":
		return errors.New("TELEMETRY_SCOPES_FILE: scoped views are not available in this version: unset it")
	case cfg.Telemetry.PushVia == config.PushMesh:
		return errors.New("TELEMETRY_PUSH_VIA=mesh is not available in this version: leave it at auto, or set direct")
	}
	return nil
}

// quitter is how the process is asked to end.
type quitter struct {
	log    *slog.Logger
	once   sync.Once
	drain  chan struct{} // closed when the drain begins
	signal chan os.Signal
}

func newQuitter(log *slog.Logger) *quitter {
	q := &quitter{log: log, drain: make(chan struct{}), signal: make(chan os.Signal, 2)}
	signal.Notify(q.signal, syscall.SIGTERM, syscall.SIGINT)
	return q
}

// watchSignals begins the drain at the first signal, until ctx ends. At a second
// interrupt it ends the process at once.
func (q *quitter) watchSignals(ctx context.Context) {
	defer signal.Stop(q.signal)
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-q.signal:
			select {
			case <-q.drain:
				if s == syscall.SIGINT {
					q.log.Info("Double Ctrl+C, exit immediately")
					os.Exit(0)
				}
			default:
				q.begin(fmt.Sprintf("received signal %s, starting shutdown", signalName(s)))
			}
		}
	}
}

// explicit begins the drain on behalf of the admin server.
func (q *quitter) explicit(context.Context) error {
	q.begin("received explicit shutdown signal")
	return nil
}

func (q *quitter) begin(why string) {
	q.once.Do(func() {
		q.log.Info(why)
		close(q.drain)
	})
}

func signalName(s os.Signal) string {
	switch s {
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGINT:
		return "SIGINT"
	}
	return s.String()
}

// raiseFileLimit lets the process open as many files as it may, and says so. The
// Go runtime leaves the limit one below that.
func raiseFileLimit(log *slog.Logger) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		log.Warn("failed to read the file descriptor limits", "error", err)
		return
	}
	before := limit.Cur
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		log.Warn("failed to set file descriptor limits", "error", err)
		return
	}
	log.Info(fmt.Sprintf("set file descriptor limits from %d to %d", before, limit.Cur))
}
