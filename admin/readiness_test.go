package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ztunnel/telemetry/httpd"
	"ztunnel/telemetry/logging"
)

func TestReadinessTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		logs, err := logging.New(logging.Config{Output: &out})
		if err != nil {
			t.Fatal(err)
		}
		r := NewReadiness(logs.Logger("readiness"), time.Now())
		state := func(want int, wantBody string) {
			t.Helper()
			status, body, detail := r.state()
			if status != want || body != wantBody || r.Ready() != (want == 200) || detail.Ready != (want == 200) {
				t.Errorf("state = %d %q, ready %v, want %d %q", status, body, r.Ready(), want, wantBody)
			}
		}
		state(200, "ready\n")
		proxy, manager := r.Task("proxy"), r.Task("state manager")
		r.Task("dns proxy")()
		state(500, "not ready, pending: proxy, state manager\n")
		<-time.After(1500 * time.Millisecond) // fake time
		manager()
		manager()
		state(500, "not ready, pending: proxy\n")
		<-time.After(time.Minute) // fake time
		proxy()
		state(200, "ready\n")
		again := r.Task("proxy")
		state(500, "not ready, pending: proxy\n")
		proxy() // of before
		state(500, "not ready, pending: proxy\n")
		again()
		state(200, "ready\n")
		r.Drain()
		state(503, "not ready, draining\n")
		if err := logs.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		var messages []string
		for line := range strings.Lines(out.String()) {
			messages = append(messages, strings.Split(line, "\t")[3])
		}
		want := []string{
			"Task 'dns proxy' complete (0s), still awaiting 2 tasks",
			"Task 'state manager' complete (1.5s), still awaiting 1 tasks",
			"Task 'proxy' complete (61.5s), marking server ready",
			"Task 'proxy' complete (61.5s), marking server ready",
		}
		if diff := cmp.Diff(want, messages); diff != "" {
			t.Errorf("messages differ (-want +got):\n%s", diff)
		}
	})
}

func TestReadinessServer(t *testing.T) {
	r := NewReadiness(slog.New(slog.DiscardHandler), time.Now())
	ln, err := httpd.Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	serveUntilEnd(t, func(ctx context.Context) error { return r.Serve(ctx, ln) })
	url := "http://" + ln.Addr().String()
	done := r.Task("proxy")
	for _, tc := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/healthz/ready", 500, "not ready, pending: proxy\n"},
		{"POST", "/healthz/ready", 405, ""},
		{"HEAD", "/healthz/ready", 405, ""},
		{"GET", "/ready", 404, ""},
		{"POST", "/ready", 404, ""},
		{"GET", "/", 404, ""},
	} {
		if status, body, _ := call(t, tc.method, url+tc.path); status != tc.status || body != tc.body {
			t.Errorf("%s %s = %d %q, want %d %q", tc.method, tc.path, status, body, tc.status, tc.body)
		}
	}
	verbose := func(want int, wantDetail readyDetail) {
		t.Helper()
		status, body, header := call(t, "GET", url+"/healthz/ready?verbose")
		var detail readyDetail
		if err := json.Unmarshal([]byte(body), &detail); err != nil {
			t.Fatalf("got %q: %v", body, err)
		}
		detail.UptimeSeconds = 0
		for i := range detail.Tasks {
			detail.Tasks[i].Since = time.Time{}
		}
		if diff := cmp.Diff(wantDetail, detail); status != want || diff != "" || header.Get("Content-Type") != "application/json" {
			t.Errorf("got %d, want %d; detail differs (-want +got):\n%s", status, want, diff)
		}
	}
	verbose(500, readyDetail{Pending: []string{"proxy"}, Tasks: []taskDetail{{Name: "proxy", State: "pending"}}})
	done()
	verbose(200, readyDetail{Ready: true, Pending: []string{}, Tasks: []taskDetail{{Name: "proxy", State: "complete"}}})
	r.Drain()
	verbose(503, readyDetail{Draining: true, Pending: []string{}, Tasks: []taskDetail{{Name: "proxy", State: "complete"}}})
}
