package xds

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The reasons for which streams end, values of the label reason.
const (
	reasonConnection = "ConnectionError" // no stream came about
	reasonReconnect  = "Reconnect"       // it was cut, as happens when the control plane recycles connections
	reasonError      = "Error"           // it failed, or this side did
	reasonComplete   = "Complete"        // the control plane ended it
)

// ending is how a stream ended.
type ending struct {
	reason string
	err    error // nil for Complete
	local  bool  // this side failed
}

// classify tells what an error of the stream means. Established says that there were response headers.
func classify(err error, established bool) ending {
	if !established {
		return ending{reason: reasonConnection, err: err}
	}
	s := status.Convert(err)
	switch s.Code() {
	case codes.OK:
		return ending{reason: reasonComplete}
	case codes.Unknown, codes.Canceled, codes.DeadlineExceeded:
		return ending{reason: reasonReconnect, err: err}
	case codes.Unavailable, codes.Internal:
		if wasCut(s.Message()) {
			return ending{reason: reasonReconnect, err: err}
		}
	}
	return ending{reason: reasonError, err: err}
}

// localFailure is an ending for which this side is to blame.
func localFailure(err error) ending { return ending{reason: reasonError, err: err, local: true} }

// wasCut reports whether the text is one of gRPC about the loss of a connection. As a status of the server's it would be
// Unavailable, or Internal in the middle of a message, all the same, so there is only the text to tell them apart.
func wasCut(message string) bool {
	for _, text := range []string{
		"transport is closing", "received prior goaway", // also those of the reference
		"error reading from server", "closing transport due to", "connection is draining", "unexpected EOF",
		"keepalive ping failed",
	} {
		if strings.Contains(message, text) {
			return true
		}
	}
	return false
}

// tooLarge reports whether the control plane refused the size of a request. This side says the same, with its own limit, of
// a response that is too large.
func (e ending) tooLarge() bool {
	s := status.Convert(e.err)
	return !e.local && s.Code() == codes.ResourceExhausted && strings.Contains(s.Message(), "larger than max") &&
		!strings.Contains(s.Message(), fmt.Sprintf("vs. %d)", MaxResponse))
}

// log says how a stream ended, in the words of the reference.
func (e ending) log(ctx context.Context, log *slog.Logger, address string, delay time.Duration) {
	level, text := slog.LevelWarn, ""
	switch {
	case e.reason == reasonComplete:
		text = "XDS client complete"
	case e.reason == reasonConnection:
		text = fmt.Sprintf("XDS client connection error: gRPC connection error connecting to %s: %s, retrying in %s", address, describe(e.err), delay)
	case e.reason == reasonReconnect:
		level, text = slog.LevelDebug, fmt.Sprintf("XDS client terminated: gRPC error %s, retrying in %s", describe(e.err), delay)
	case e.local:
		text = fmt.Sprintf("XDS client error: %v, retrying in %s", e.err, delay)
	default:
		text = fmt.Sprintf("XDS client error: gRPC error %s, retrying in %s", describe(e.err), delay)
	}
	log.LogAttrs(ctx, level, text)
}

// describe prints a status as the reference does, with its hints.
func describe(err error) string {
	s := status.Convert(err)
	code, message := s.Code().String(), clip(s.Message())
	if s.Code() == codes.Canceled {
		code = "Cancelled"
	}
	text := fmt.Sprintf("status: %s, message: %q", code, message)
	if strings.Contains(message, "authentication failure") {
		text += " (hint: check the control plane logs for more information)"
	}
	for _, cause := range []string{"Temporary failure in name resolution", "no such host", "server misbehaving", "name resolver error", "produced zero addresses"} {
		if strings.Contains(message, cause) {
			return text + " (hint: is the DNS server reachable?)"
		}
	}
	return text
}

const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = 15 * time.Second
	// healthy is how long a stream has to last for its end to be taken as a new trouble, not as more of the last.
	healthy = maxBackoff
)

// backoff is the pause between two streams. The reference's grows from 20 ms to 15 s with each failure and never gets
// smaller but by certain endings; ours begins anew after a long stream, does not leave out any kind of ending, and is
// spread, so that the nodes of a cluster do not come back all at once.
type backoff struct{ last time.Duration }

// next returns the pause after a stream of this duration and ending: between half of the nominal pause and all of it.
func (b *backoff) next(e ending, lasted time.Duration) time.Duration {
	if b.last == 0 || lasted >= healthy {
		b.last = minBackoff
	}
	d := min(2*b.last, maxBackoff)
	if e.reason == reasonReconnect {
		d = b.last // the first comes at once, the following as after errors
		b.last = min(2*b.last, maxBackoff)
	} else {
		b.last = d
	}
	d = d/2 + rand.N(d/2+1) //nolint:gosec // spreading needs no secret
	return d.Round(100 * time.Microsecond)
}
