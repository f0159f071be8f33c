package xds

import (
	"errors"
	"log/slog"
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// How a stream ends decides what is counted and said.
func TestEndings(t *testing.T) {
	of := func(code codes.Code, text string) error { return status.Error(code, text) }
	for _, tc := range []struct {
		name   string
		end    ending
		reason string
		line   string
	}{
		{
			"refused", classify(of(codes.Unauthenticated, "authentication failure"), false), "ConnectionError",
			`WARN XDS client connection error: gRPC connection error connecting to https://istiod:15012: status: Unauthenticated, message: "authentication failure" (hint: check the control plane logs for more information), retrying in 20ms`,
		},
		{
			"cut before it was established", classify(of(codes.Unavailable, "error reading from server: EOF"), false), "ConnectionError",
			`WARN XDS client connection error: gRPC connection error connecting to https://istiod:15012: status: Unavailable, message: "error reading from server: EOF", retrying in 20ms`,
		},
		{
			"no name", classify(of(codes.Unavailable, "name resolver error: produced zero addresses"), false), "ConnectionError",
			`WARN XDS client connection error: gRPC connection error connecting to https://istiod:15012: status: Unavailable, message: "name resolver error: produced zero addresses" (hint: is the DNS server reachable?), retrying in 20ms`,
		},
		{"unknown", classify(of(codes.Unknown, "x"), true), "Reconnect", `DEBUG XDS client terminated: gRPC error status: Unknown, message: "x", retrying in 20ms`},
		{"cancelled", classify(of(codes.Canceled, "x"), true), "Reconnect", `DEBUG XDS client terminated: gRPC error status: Cancelled, message: "x", retrying in 20ms`},
		{"deadline", classify(of(codes.DeadlineExceeded, "x"), true), "Reconnect", `DEBUG XDS client terminated: gRPC error status: DeadlineExceeded, message: "x", retrying in 20ms`},
		{"closing", classify(of(codes.Unavailable, "transport is closing"), true), "Reconnect", `DEBUG XDS client terminated: gRPC error status: Unavailable, message: "transport is closing", retrying in 20ms`},
		{"cut", classify(of(codes.Unavailable, "error reading from server: EOF"), true), "Reconnect", `DEBUG XDS client terminated: gRPC error status: Unavailable, message: "error reading from server: EOF", retrying in 20ms`},
		{"going away", classify(of(codes.Unavailable, "closing transport due to: x, received prior goaway: code: NO_ERROR"), true), "Reconnect", `DEBUG XDS client terminated: gRPC error status: Unavailable, message: "closing transport due to: x, received prior goaway: code: NO_ERROR", retrying in 20ms`},
		{"cut in a message", classify(of(codes.Internal, "unexpected EOF"), true), "Reconnect", `DEBUG XDS client terminated: gRPC error status: Internal, message: "unexpected EOF", retrying in 20ms`},
		{"internal", classify(of(codes.Internal, "enough"), true), "Error", `WARN XDS client error: gRPC error status: Internal, message: "enough", retrying in 20ms`},
		{"unavailable", classify(of(codes.Unavailable, "not now"), true), "Error", `WARN XDS client error: gRPC error status: Unavailable, message: "not now", retrying in 20ms`},
		{"permission", classify(of(codes.PermissionDenied, "no"), true), "Error", `WARN XDS client error: gRPC error status: PermissionDenied, message: "no", retrying in 20ms`},
		{"local", localFailure(errors.New("read token: no such file")), "Error", `WARN XDS client error: read token: no such file, retrying in 20ms`},
		{"complete", ending{reason: reasonComplete}, "Complete", `WARN XDS client complete`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := &lines{}
			tc.end.log(t.Context(), slog.New(l), "https://istiod:15012", 20*time.Millisecond)
			if tc.end.reason != tc.reason || len(l.text) != 1 || l.text[0] != tc.line {
				t.Errorf("%s %q, want %s %q", tc.end.reason, l.text, tc.reason, tc.line)
			}
		})
	}
}

// The pause grows from 20 ms to 15 s with each failure, of whichever kind; only the first of several cuts is followed at
// once; and it begins anew after a stream that lasted. It is spread over half of its length.
func TestBackoff(t *testing.T) {
	const ms = time.Millisecond
	failure, cut, end := ending{reason: reasonConnection}, ending{reason: reasonReconnect}, ending{reason: reasonComplete}
	for _, tc := range []struct {
		name   string
		end    ending
		lasted time.Duration
		want   []time.Duration // nominal
	}{
		{"failures", failure, 0, []time.Duration{20 * ms, 40 * ms, 80 * ms, 160 * ms, 320 * ms, 640 * ms, 1280 * ms, 2560 * ms, 5120 * ms, 10240 * ms, 15 * time.Second, 15 * time.Second}},
		{"failures here", localFailure(errors.New("x")), 0, []time.Duration{20 * ms, 40 * ms, 80 * ms}},
		{"normal ends", end, time.Second, []time.Duration{20 * ms, 40 * ms, 80 * ms}},
		{"cuts", cut, time.Second, []time.Duration{10 * ms, 20 * ms, 40 * ms}},
		{"cuts of streams that lasted", cut, time.Minute, []time.Duration{10 * ms, 10 * ms, 10 * ms}},
		{"failures of streams that lasted", failure, time.Minute, []time.Duration{20 * ms, 20 * ms, 20 * ms}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			seen := make(map[time.Duration]bool)
			for range 100 {
				var b backoff
				for i, want := range tc.want {
					got := b.next(tc.end, tc.lasted)
					if got < want/2-ms || got > want {
						t.Fatalf("pause %d = %s, want between %s and %s", i, got, want/2, want)
					}
					seen[got] = true
				}
			}
			if len(seen) < 20 {
				t.Errorf("%d different pauses in 100 rounds, want them spread", len(seen))
			}
		})
	}
	var b backoff
	for range 10 {
		b.next(failure, 0)
	}
	if got := b.next(cut, healthy); got > minBackoff {
		t.Errorf("pause after a stream that lasted = %s, want at most %s", got, minBackoff)
	}
}

// A control plane that refuses, that ends each stream, or a failure of this side: none of it leads to a hot loop, and all of
// it ends in a stream once the trouble is over.
func TestNoHotLoop(t *testing.T) {
	for _, tc := range []struct {
		name   string
		reason string
		begin  func(w *world)
		stop   func(w *world)
	}{
		{"refused", reasonConnection, func(w *world) {
			w.plane.Refuse(status.Error(codes.Unauthenticated, "authentication failure"))
		}, func(w *world) { w.plane.Refuse(nil) }},
		{"failure here", reasonError, func(w *world) {
			w.channel.Fail(errors.New("no token"))
		}, func(w *world) { w.channel.Fail(nil) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, nil, func(w *world) {
				st, _, _ := w.open()
				w.accepts(st, push(thingType, nil))
				tc.begin(w)
				st.End(nil)
				time.Sleep(time.Minute)
				synctest.Wait()
				// 20 ms to 10 s are ten attempts in 20 to 40 s, then one in 7.5 to 15 s.
				if n := w.client.Status().Ended[tc.reason]; n < 10 || n > 16 {
					t.Errorf("%d attempts in a minute, want 10 to 16", n)
				}
				tc.stop(w)
				time.Sleep(maxBackoff)
				w.open()
			})
		})
	}
}

// Streams that end normally again and again are opened at growing intervals.
func TestCompleteBacksOff(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		start := time.Now()
		for range 8 {
			st, _, _ := w.open()
			st.End(nil)
		}
		w.open()
		if d := time.Since(start); d < 2*time.Second {
			t.Errorf("nine streams within %s, want them at growing intervals", d)
		}
		if got := w.log.with("XDS client complete"); len(got) != 8 {
			t.Errorf("lines %q, want eight about complete streams", got)
		}
	})
}

// A stream that is cut is followed at once, with the number of the next stream.
func TestCut(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		w.accepts(st, push(thingType, nil, res("a=1@1")))
		start := time.Now()
		w.plane.Cut()
		_, things, _ := w.open()
		if d := time.Since(start); d > minBackoff {
			t.Errorf("next stream after %s, want at most %s", d, minBackoff)
		}
		if len(things.GetInitialResourceVersions()) != 1 {
			t.Errorf("claims %v, want a", things.GetInitialResourceVersions())
		}
		if got := w.client.Status().Ended; len(got) != 1 || got[reasonReconnect] != 1 {
			t.Errorf("ends %v, want one Reconnect (lines %q)", got, w.log.text)
		}
	})
}

// The end of a stream before its response headers is one of the connection.
func TestEstablished(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		st.End(status.Error(codes.Internal, "before"))
		st, _, _ = w.open()
		st.Establish(w)
		synctest.Wait()
		if got := w.log.with("INFO Stream established"); len(got) != 1 || !w.client.Status().Connected {
			t.Errorf("lines %q, want one about a stream", got)
		}
		st.End(status.Error(codes.Internal, "after"))
		w.open()
		ended := w.client.Status().Ended
		if ended[reasonConnection] != 1 || ended[reasonError] != 1 {
			t.Errorf("ends %v, want one of the connection and one error", ended)
		}
	})
}

// The end of the context ends Run in every state.
func TestRunEnds(t *testing.T) {
	for name, prepare := range map[string]func(w *world){
		"connected":  func(w *world) { w.open() },
		"pausing":    func(w *world) { w.plane.Refuse(status.Error(codes.Internal, "x")); time.Sleep(time.Minute) },
		"connecting": func(*world) {},
		"unread": func(w *world) { // requests pile up unread
			st := w.plane.Accept(w)
			for range 50 {
				st.Send(w, push(thingType, nil))
			}
		},
	} {
		t.Run(name, func(t *testing.T) { inBubble(t, nil, prepare) })
	}
}

var durations = regexp.MustCompile(`retrying in [0-9.µms]+$`)

// A request that is too large for the control plane is told from a response that is too large for us.
func TestTooLarge(t *testing.T) {
	for text, want := range map[string]bool{
		"grpc: received message larger than max (5000000 vs. 4194304)":     true,
		"grpc: received message larger than max (300000000 vs. 209715200)": false,
		"out of memory": false,
	} {
		if got := classify(status.Error(codes.ResourceExhausted, text), true).tooLarge(); got != want {
			t.Errorf("%s: tooLarge = %t, want %t", text, got, want)
		}
	}
	if localFailure(status.Error(codes.ResourceExhausted, "larger than max")).tooLarge() {
		t.Error("a failure of this side was taken for one of the control plane")
	}
}

// A pause is told in a form that people read.
func TestPauseIsReadable(t *testing.T) {
	var b backoff
	l := &lines{}
	e := ending{reason: reasonConnection, err: status.Error(codes.Internal, "x")}
	for range 20 {
		e.log(t.Context(), slog.New(l), "a", b.next(e, 0))
	}
	for _, line := range l.text {
		if !durations.MatchString(line) || len(line) > 130 {
			t.Errorf("line %q", line)
		}
	}
}
