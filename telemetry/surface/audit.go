package surface

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"ztunnel/telemetry/logging"
)

// The ways a read can come in: values of the label "transport".
const (
	transportHBONE     = "hbone"
	transportLoopback  = "loopback"
	transportPlaintext = "plaintext"
)

const (
	// maxIdentities bounds the values of the label "peer_identity"; further
	// readers count as otherIdentity.
	maxIdentities   = 50
	otherIdentity   = "other"
	unknownIdentity = "unknown"

	// maxPath bounds what a reader can make us write to the log.
	maxPath = 256

	// scopeFull is the scope of a reader that sees everything.
	scopeFull = "full"
)

// read is a request for a surface, or a reader that is refused.
type read struct {
	reader    Reader
	surface   string
	transport string
}

// seriesKey are the labels of catalog.SurfaceRequests.
type seriesKey struct{ identity, surface, code, transport string }

// audit counts and logs reads.
type audit struct {
	log *slog.Logger

	mu         sync.Mutex
	identities map[string]struct{}
	requests   map[seriesKey]uint64
}

func newAudit(log *slog.Logger) *audit {
	return &audit{log: log, identities: map[string]struct{}{}, requests: map[seriesKey]uint64{}}
}

// serve answers a request and audits it.
func (a *audit) serve(w http.ResponseWriter, r *http.Request, pages http.Handler, by read) {
	start := time.Now()
	counted := &response{ResponseWriter: w}
	completed := false
	defer func() {
		status := counted.status
		switch {
		case !completed:
			status = http.StatusInternalServerError // the page panicked, the connection ends
		case status == 0:
			status = http.StatusOK
		}
		a.answered(r.Context(), by, r.URL.Path, status, counted.bytes, time.Since(start))
	}()
	pages.ServeHTTP(counted, r)
	completed = true
}

func (a *audit) answered(ctx context.Context, by read, path string, status int, bytes uint64, duration time.Duration) {
	a.count(by, strconv.Itoa(status))
	if len(path) > maxPath {
		path = path[:maxPath]
	}
	attrs := append(by.source(),
		slog.String("surface", by.surface),
		slog.String("path", path),
		slog.Int("status", status),
		slog.Uint64("bytes_sent", bytes),
		slog.String("duration", logging.Millis(duration)),
		slog.String("scope", scopeFull))
	a.log.LogAttrs(ctx, slog.LevelInfo, "read", attrs...)
}

func (a *audit) denied(ctx context.Context, surface string, reader Reader, err error) {
	by := read{reader, surface, transportHBONE}
	a.count(by, strconv.Itoa(http.StatusUnauthorized))
	attrs := append(by.source(), slog.String("surface", surface), slog.Any("error", err))
	a.log.LogAttrs(ctx, slog.LevelWarn, "read denied", attrs...)
}

// source are the fields that every line begins with; what is unknown is left
// out, as in the access log.
func (by read) source() []slog.Attr {
	attrs := make([]slog.Attr, 0, 8)
	if by.reader.Src.IsValid() {
		attrs = append(attrs, slog.Any("src.addr", by.reader.Src))
	}
	if by.reader.Identity != "" {
		attrs = append(attrs, slog.String("src.identity", by.reader.Identity))
	}
	return attrs
}

// count counts a request under its reader. The map is bounded by the readers,
// and by the surfaces, transports and statuses of our own handlers.
func (a *audit) count(by read, code string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	identity := by.reader.Identity
	switch _, known := a.identities[identity]; {
	case identity == "":
		identity = unknownIdentity
	case known:
	case len(a.identities) < maxIdentities:
		a.identities[identity] = struct{}{}
	default:
		identity = otherIdentity
	}
	a.requests[seriesKey{identity, by.surface, code, by.transport}]++
}

// response counts what is sent.
type response struct {
	http.ResponseWriter
	status int
	bytes  uint64
}

// WriteHeader implements http.ResponseWriter.
func (r *response) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *response) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += uint64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach deadlines and flushing.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }
