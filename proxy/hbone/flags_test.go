package hbone

import (
	"fmt"
	"io"
	"testing"

	"ztunnel/telemetry/connection"
)

func TestFailureFlags(t *testing.T) {
	timeout := &TimeoutError{"something"}
	for _, tt := range []struct {
		err  error
		text string
		want connection.Flag
	}{
		{&TLSError{io.EOF}, "tls error: EOF", connection.FlagTLS},
		{&TLSError{timeout}, "tls error: timed out waiting for something", connection.FlagTLS},
		{&HandshakeError{timeout}, "http2 handshake failed: timed out waiting for something", connection.FlagH2},
		{&H2Error{Err: errConnReset}, "h2 failed: connection reset", connection.FlagH2},
		{&StatusError{503}, "http status: 503 Service Unavailable", connection.FlagConnect},
		{timeout, "timed out waiting for something", connection.FlagConnect},
		{ErrTunnelFull, ErrTunnelFull.Error(), connection.FlagConnect},
	} {
		if got := connection.FlagOf(fmt.Errorf("open: %w", tt.err)); got != tt.want || tt.err.Error() != tt.text {
			t.Errorf("FlagOf(%q) = %v, want %v and the text %q", tt.err, got, tt.want, tt.text)
		}
	}
}
