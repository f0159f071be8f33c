// Package surface serves the telemetry of the process to its readers: over
// tunnels, at virtual ports of the process's own mesh identity, where no socket
// listens; over the loopback admin server; and, if so configured, over a plain
// TCP listener as Istio's ztunnel does. Whatever way a read comes in, it is
// answered by the same handler, and audited by a metric and a log line.
//
// The package does not authenticate or authorise: the inbound proxy does, with
// the virtual port as destination port, and then hands the tunnel stream to
// Surface.ServeConn, or the refusal to Surface.Denied. It owns no metric but
// those of its audit; the pages are injected.
package surface

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"ztunnel/telemetry/httpd"
	"ztunnel/telemetry/profiles"
)

// The virtual ports.
const (
	PortMetrics     = 15020
	PortProfiles    = 15022
	PortConnections = 15023
)

// The names of the surfaces in the configuration, in metrics and in the log.
const (
	Metrics     = "metrics"
	Profiles    = "profiles"
	Connections = "connections"
)

// Exposure says which ways lead to the telemetry.
type Exposure string

// The exposures.
const (
	Mesh      Exposure = "mesh"      // only tunnels (and the admin server): the default
	Both      Exposure = "both"      // tunnels and the plain listener, for a migration
	Plaintext Exposure = "plaintext" // only the plain listener, as the reference
)

// maxConns bounds the open connections of readers, of each surface and of the
// plain listener.
const maxConns = 128

// Config says what is served and how.
type Config struct {
	// Exposure is Mesh when empty.
	Exposure Exposure
	// Surfaces are the names of those that have a virtual port; nil is Metrics
	// alone.
	Surfaces []string
	// Metrics answers /metrics and /stats/prometheus.
	Metrics http.Handler
	// Profiles answers everything under /debug/pprof/. It must be set if
	// Surfaces contains Profiles.
	Profiles http.Handler
	// Log is the logger of the audit, of the scope "telemetry".
	Log *slog.Logger
}

// Server is the telemetry surface of the process. It may be used concurrently.
type Server struct {
	exposure Exposure
	metrics  http.Handler // not audited
	audit    *audit
	surfaces map[uint16]*Surface
	ready    atomic.Bool
}

// Surface is what one virtual port serves.
type Surface struct {
	// Name is one of the constants.
	Name string
	// Port is the virtual port.
	Port uint16
	// NeedsAllow tells that a reader needs an explicit allow, by an ALLOW policy
	// or the list of readers: the absence of policies is not enough.
	NeedsAllow bool

	pages http.Handler
	audit *audit
	conns *httpd.Server
}

// Reader is who reads.
type Reader struct {
	// Identity is the verified SPIFFE ID; empty when there is none.
	Identity string
	// Src is the address it comes from.
	Src netip.AddrPort
}

// New makes the surface. It starts nothing. The errors are those of the
// configuration.
func New(cfg Config) (*Server, error) {
	if cfg.Exposure == "" {
		cfg.Exposure = Mesh
	}
	if !slices.Contains([]Exposure{Mesh, Both, Plaintext}, cfg.Exposure) {
		return nil, fmt.Errorf("telemetry exposure %q is unknown, expected mesh, both or plaintext", cfg.Exposure)
	}
	if cfg.Surfaces == nil {
		cfg.Surfaces = []string{Metrics}
	}
	s := &Server{
		exposure: cfg.Exposure,
		metrics:  metricsPages(cfg.Metrics),
		audit:    newAudit(cfg.Log),
		surfaces: map[uint16]*Surface{},
	}
	for _, name := range cfg.Surfaces {
		var f *Surface
		switch name {
		case Metrics:
			f = &Surface{Name: name, Port: PortMetrics, pages: s.metrics}
		case Profiles:
			if cfg.Profiles == nil {
				return nil, errors.New("surface profiles has no handler")
			}
			f = &Surface{Name: name, Port: PortProfiles, NeedsAllow: true, pages: below(profiles.Prefix, cfg.Profiles)}
		case Connections:
			return nil, errors.New("surface connections is not available in this version")
		default:
			return nil, fmt.Errorf("telemetry surface %q is unknown, expected metrics, profiles or connections", name)
		}
		f.audit = s.audit
		s.surfaces[f.Port] = f
	}
	for _, f := range s.surfaces {
		f.conns = httpd.New(httpd.Config{Component: f.Name, Handler: f.handler(), Log: cfg.Log, MaxConns: maxConns})
	}
	return s, nil
}

// Lookup is the surface of a virtual port. There is none when the port is no
// virtual port or is switched off, and when the exposure is Plaintext: then a
// tunnel to that port is one to any other port.
func (s *Server) Lookup(port uint16) (*Surface, bool) {
	if s.exposure == Plaintext {
		return nil, false
	}
	f, ok := s.surfaces[port]
	return f, ok
}

// IsVirtual tells whether a port is one that this exposure keeps for a surface,
// be it switched on or off. A tunnel to one that Lookup does not find is
// answered as one to a closed port (503).
func (s *Server) IsVirtual(port uint16) bool {
	return s.exposure != Plaintext && (port == PortMetrics || port == PortProfiles || port == PortConnections)
}

// HasPlaintext tells whether the exposure includes the plain listener.
func (s *Server) HasPlaintext() bool { return s.exposure != Mesh }

// Drain lets readers finish what they read, and keeps none of their connections
// for the next time. New readers are still served.
func (s *Server) Drain() {
	for _, f := range s.surfaces {
		f.conns.Drain()
	}
}

// SetReady says whether readers can get in over tunnels: the process has a
// certificate of its own and listens. It only changes a metric.
func (s *Server) SetReady(ready bool) { s.ready.Store(ready) }

// ServeConn serves HTTP/1.1 to an authorised reader on one tunnel stream, until
// the reader ends it (nil), or ctx ends (the cause; what is being answered is
// cut). conn is closed when it returns.
func (f *Surface) ServeConn(ctx context.Context, conn net.Conn, reader Reader) error {
	return f.conns.ServeConn(context.WithValue(ctx, readerKey{}, reader), conn)
}

// Denied audits a reader that is refused; err says why.
func (f *Surface) Denied(ctx context.Context, reader Reader, err error) {
	f.audit.denied(ctx, f.Name, reader, err)
}

// readerKey is the key of the Reader of a tunnel in the context of its requests.
type readerKey struct{}

// handler is the audited handler of tunnels.
func (f *Surface) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reader, _ := r.Context().Value(readerKey{}).(Reader)
		f.audit.serve(w, r, f.pages, read{reader, f.Name, transportHBONE})
	})
}

// Loopback is the audited handler of the metrics for the admin server, at
// /metrics and /stats/prometheus.
func (s *Server) Loopback() http.Handler { return s.plain(transportLoopback) }

func (s *Server) plain(transport string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		src, _ := netip.ParseAddrPort(r.RemoteAddr) // none if it is no address
		src = netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
		s.audit.serve(w, r, s.metrics, read{Reader{Src: src}, Metrics, transport})
	})
}

// ServePlaintext serves the metrics to anybody on plain listeners, as the
// reference does, until ctx ends. It warns when that is in addition to the mesh.
func (s *Server) ServePlaintext(ctx context.Context, log *slog.Logger, listeners ...net.Listener) error {
	if s.exposure == Both {
		log.Warn("metrics are also served in plaintext to anybody (TELEMETRY_EXPOSURE=both)")
	}
	return httpd.New(httpd.Config{Component: "stats", Handler: s.plain(transportPlaintext), Log: log, MaxConns: maxConns}).Serve(ctx, listeners...)
}

// metricsPages serves the metrics at their two paths, by any method.
func metricsPages(metrics http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics", "/stats/prometheus":
			metrics.ServeHTTP(w, r)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

func below(prefix string, pages http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, prefix) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		pages.ServeHTTP(w, r)
	})
}
