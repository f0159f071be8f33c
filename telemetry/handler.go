package telemetry

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

const (
	// maxScrapes is how many scrapes may be under way at once; each holds all
	// series in memory.
	maxScrapes = 8
	// defaultScrapeWait is how long a further one waits for its turn: half of
	// what Prometheus gives a scrape.
	defaultScrapeWait = 5 * time.Second

	contentText        = "text/plain; version=0.0.4; charset=utf-8"
	contentOpenMetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8"
)

// Handler answers scrapes, with any method and whatever the query. Paths are
// the caller's. The body is what the content type says: OpenMetrics for whoever
// mentions it among what is accepted, at any place and with any q-value, as in
// the reference, and Prometheus text for all others. It is compressed with zstd
// or gzip if the reader accepts that. What cannot be gathered is logged and left
// out; after Shutdown a scrape is a 500, and what does not become one of eight at once within 5 s is a 503.
func (t *Telemetry) Handler() http.Handler { return http.HandlerFunc(t.serve) }

func (t *Telemetry) serve(w http.ResponseWriter, r *http.Request) {
	if !t.startScrape(r.Context()) {
		http.Error(w, "too many scrapes at once", http.StatusServiceUnavailable)
		return
	}
	defer func() { <-t.scrapes }()
	families, err := t.gather()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	openMetrics := wantsOpenMetrics(r.Header["Accept"])
	h.Set("Content-Type", contentText)
	if openMetrics {
		h.Set("Content-Type", contentOpenMetrics)
	}
	h.Set("Vary", "Accept, Accept-Encoding")
	encoding := pickEncoding(r.Header["Accept-Encoding"])
	if encoding != "" {
		h.Set("Content-Encoding", encoding)
	}
	if err := t.respond(w, encoding, openMetrics, families); err != nil {
		t.log.Debug("write metrics", "error", err) // the reader has gone
	}
}

// startScrape waits for a slot, and reports false if there was none in time. The
// server limits how many wait.
func (t *Telemetry) startScrape(ctx context.Context) bool {
	select {
	case t.scrapes <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(t.scrapeWait)
	defer timer.Stop()
	select {
	case t.scrapes <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// gather collects all families, sorted by name. No two scrapes do so at once:
// it is what needs most of the memory and the processor, and the collection
// inside is one at a time anyway. No lock of the data path is held when it
// returns.
func (t *Telemetry) gather() ([]*dto.MetricFamily, error) {
	t.gathering.Lock()
	defer t.gathering.Unlock()
	if t.ended.Load() { // the exporter would report nothing, silently
		return nil, errors.New("telemetry has been shut down")
	}
	families, err := t.registry.Gather()
	if err != nil { // what could be gathered is there all the same
		t.log.Error("gather metrics", "error", err)
	}
	return families, nil
}

// respond writes the families and lets go of each as soon as it is written.
func (t *Telemetry) respond(w io.Writer, encoding string, openMetrics bool, families []*dto.MetricFamily) error {
	out, done := t.compressor.wrap(w, encoding)
	var err error
	for i, f := range families {
		if err != nil {
			break
		}
		help := t.helpOf(f)
		f.Help = &help
		if openMetrics {
			_, err = expfmt.MetricFamilyToOpenMetrics(out, f)
		} else {
			_, err = expfmt.MetricFamilyToText(out, f)
		}
		families[i] = nil
	}
	if err == nil && openMetrics {
		_, err = expfmt.FinalizeOpenMetrics(out)
	}
	if closeErr := done(); err == nil {
		err = closeErr
	}
	return err
}

// helpOf is the text of HELP: the catalog's, which says "unstable" of all but
// the families that are a promise. What the catalog does not know is no
// promise. The families of the Go runtime and of the process keep their own.
func (t *Telemetry) helpOf(f *dto.MetricFamily) string {
	name, help := f.GetName(), f.GetHelp()
	if known := t.help[name]; known != "" {
		return known
	}
	if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || strings.Contains(help, "unstable") {
		return help
	}
	return strings.TrimSpace(help + " (unstable)")
}

// wantsOpenMetrics says whether any of the Accept headers mentions it.
func wantsOpenMetrics(accept []string) bool {
	for _, a := range accept {
		if strings.Contains(strings.ToLower(a), "application/openmetrics-text") {
			return true
		}
	}
	return false
}

// pickEncoding returns the encoding that the reader prefers among zstd and
// gzip, zstd if equal, or "" for none.
func pickEncoding(accept []string) string {
	best, bestQ := "", 0.0
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		name, params, _ := strings.Cut(part, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		if name == "*" {
			name = "gzip"
		}
		if name != "gzip" && name != "zstd" {
			continue
		}
		q := quality(params)
		if q > bestQ || q == bestQ && q > 0 && name == "zstd" {
			best, bestQ = name, q
		}
	}
	return best
}

// quality is the q-value among the parameters of an element; 1 if there is
// none, 0 if it is malformed.
func quality(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil || !(q >= 0 && q <= 1) {
			return 0
		}
		return q
	}
	return 1
}

// compressors keeps compressors between scrapes: their state is larger than
// most answers.
type compressors struct {
	gzip, zstd, buffers sync.Pool
}

// wrap returns a buffered writer that encodes into w, and what must be called
// at its end.
func (c *compressors) wrap(w io.Writer, encoding string) (*bufio.Writer, func() error) {
	b, ok := c.buffers.Get().(*bufio.Writer)
	if !ok {
		b = bufio.NewWriterSize(nil, 64<<10)
	}
	encoded, done := c.compress(w, encoding)
	b.Reset(encoded)
	return b, func() error {
		defer c.buffers.Put(b)
		defer b.Reset(nil)
		return errors.Join(b.Flush(), done())
	}
}

// compress returns what encodes into w, and what must be called at its end.
func (c *compressors) compress(w io.Writer, encoding string) (io.Writer, func() error) {
	switch encoding {
	case "gzip":
		z, ok := c.gzip.Get().(*gzip.Writer)
		if !ok {
			z, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // fails only for an unknown level
		}
		z.Reset(w)
		return z, func() error { defer c.gzip.Put(z); return z.Close() }
	case "zstd":
		z, ok := c.zstd.Get().(*zstd.Encoder)
		if !ok { // fails only for bad options
			z, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
		}
		z.Reset(w)
		return z, func() error { defer c.zstd.Put(z); return z.Close() }
	}
	return w, func() error { return nil }
}
