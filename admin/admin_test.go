package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"ztunnel/telemetry/httpd"
	"ztunnel/telemetry/logging"
	"ztunnel/telemetry/profiles"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is an admin server on loopback.
type fixture struct {
	*Server
	url   string
	quits int
	logs  *logging.Logging
	out   *bytes.Buffer
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{out: &bytes.Buffer{}}
	var err error
	if f.logs, err = logging.New(logging.Config{Output: f.out}); err != nil {
		t.Fatal(err)
	}
	f.Server = New(Config{
		Log: f.logs.Logger("admin"), Filter: f.logs,
		Quit: func(context.Context) error {
			f.quits++
			return nil
		},
		Profiles: profiles.New(&sync.Mutex{}),
		Metrics:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "istio_build 1\n") }),
		Version:  map[string]string{"version": "1.0", "goVersion": "go1"},
	})
	ln, err := httpd.Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	f.url = "http://" + ln.Addr().String()
	serveUntilEnd(t, func(ctx context.Context) error { return f.Serve(ctx, ln) })
	return f
}

// serveUntilEnd calls serve, and ends it with the test.
func serveUntilEnd(t *testing.T, serve func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
	})
}

func call(t *testing.T, method, url string) (status int, body string, header http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func TestPages(t *testing.T) {
	f := newFixture(t)
	f.Section("config", func() (any, error) { return map[string]int{"port": 1}, nil })
	f.Handle("/extra", "a page of another part", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "extra") }))
	for _, tc := range []struct {
		method, path string
		status       int
		contains     string // exact when it is empty
		contentType  string
	}{
		{"GET", "/", 200, `<a href="/config_dump">`, "text/html; charset=utf-8"},
		{"POST", "/", 200, `<td>a page of another part</td>`, "text/html; charset=utf-8"},
		{"GET", "/config_dump", 200, `"config": {`, "application/json"},
		{"POST", "/config_dump?x=y", 200, `"config": {`, "application/json"},
		{"GET", "/config_dump/", 404, "", ""},
		{"GET", "//config_dump", 404, "", ""},
		{"GET", "/server_info", 404, "", ""},
		{"GET", "/metrics", 404, "", ""},
		{"GET", "/stats/prometheus", 200, "istio_build 1\n", "text/plain; charset=utf-8"},
		{"GET", "/version", 200, "{\n  \"goVersion\": \"go1\",\n  \"version\": \"1.0\"\n}\n", "application/json"},
		{"GET", "/certs", 200, "IDENTITY  KIND", "text/plain"},
		{"GET", "/extra", 200, "extra", "text/plain; charset=utf-8"},
		{"GET", "/logging", 405, "Invalid HTTP method\n", "text/plain"},
		{"PUT", "/logging", 405, "Invalid HTTP method\n", "text/plain"},
		{"GET", "/quitquitquit", 405, "", ""},
		{"PUT", "/quitquitquit", 405, "", ""},
		{"GET", "/debug/pprof/heap/profiling", 200, "heap profiling active: true\n", "text/plain"},
		{"GET", "/debug/pprof/heap", 200, "\x1f\x8b", ""},
		{"GET", "/debug/pprof/profile?seconds=0", 400, "invalid seconds value; expected 1-300\n", "text/plain"},
		{"GET", "/debug/pprof/none", 404, "", ""},
	} {
		status, body, header := call(t, tc.method, f.url+tc.path)
		if status != tc.status || !strings.Contains(body, tc.contains) || (tc.contains == "" && body != "") || header.Get("Content-Type") != tc.contentType {
			t.Errorf("%s %s = %d %.200q %q, want %d with %q %q", tc.method, tc.path, status, body, header.Get("Content-Type"), tc.status, tc.contains, tc.contentType)
		}
	}
	if f.quits != 0 {
		t.Errorf("%d requests to quit, want none", f.quits)
	}
}

func TestQuit(t *testing.T) {
	f := newFixture(t)
	if status, body, _ := call(t, "POST", f.url+"/quitquitquit"); status != 200 || body != "shutdown now\n" || f.quits != 1 {
		t.Errorf("got %d %q and %d requests to quit, want 200 and 1", status, body, f.quits)
	}
	f.cfg.Quit = func(context.Context) error { return errors.New("too late") }
	if status, body, _ := call(t, "POST", f.url+"/quitquitquit"); status != 500 || body != "too late" {
		t.Errorf("got %d %q, want 500 with the error", status, body)
	}
}

func TestLogging(t *testing.T) {
	f := newFixture(t)
	const current, dns = "current log level is ", "hickory_server::server=off,"
	for _, step := range []struct{ query, want string }{
		{"", dns + "info"},
		{"?level=", dns + "info"},
		{"?level=debug", dns + "debug"},
		{"?level=access%3Dwarn", dns + "access=warn,debug"},
		{"?level=access:info", dns + "access=info,debug"},
		{"?level=off&level=error", dns + "access=info,error"},
		{"?reset", dns + "info"},
		{"?reset=x&level=access=debug", dns + "access=debug,info"},
		{"?reset=&level=off", dns + "off"},
		{"?reset", dns + "info"},
	} {
		if status, body, _ := call(t, "POST", f.url+"/logging"+step.query); status != 200 || body != current+step.want+"\n" {
			t.Errorf("%s: got %d %q, want 200 %q", step.query, status, body, current+step.want)
		}
	}
	for _, invalid := range []string{"loud", "INFO", "access=loud", "access", "info,loud"} {
		for _, query := range []string{"?level=", "?reset&level="} {
			status, body, _ := call(t, "POST", f.url+"/logging"+query+invalid)
			if status != 400 || !strings.HasPrefix(body, "Invalid level provided: "+invalid+"\n") || !strings.Contains(body, "usage: POST /logging") {
				t.Errorf("%s%s: got %d %q, want 400", query, invalid, status, body)
			}
		}
	}
	if got := f.logs.Filter(); got != dns+"info" {
		t.Errorf("filter after invalid levels = %q, want no change", got)
	}
	if err := f.logs.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(f.out.String(), "\tinfo\ttelemetry\tnew log filter is hickory_server::server=off,access=debug,info\t\n") {
		t.Errorf("log %q, want the change", f.out)
	}
}

type thing struct {
	Name  string         `json:"name"`
	Age   int64          `json:"age"`
	Below map[string]any `json:"below"`
}

// short has its own form, by a method of the pointer.
type short struct{ n int }

func (s *short) MarshalJSON() ([]byte, error) { return []byte(strconv.Itoa(s.n)), nil }

func sections(s *Server) {
	s.Section("methods", func() (any, error) { return []short{{1}, {2}}, nil })
	s.Section("workloads", func() (any, error) {
		return []*thing{{"b<&>", 1 << 60, map[string]any{"z": 1, "a": []int{1, 2}}}, {Name: "a"}}, nil
	})
	s.Section("services", func() (any, error) { return []thing(nil), nil })
	s.Section("policies", func() (any, error) { return []any{}, nil })
	s.Section("stagedServices", func() (any, error) { return map[string]int(nil), nil })
	s.Section("config", func() (any, error) {
		return struct {
			Z any     `json:"z"`
			A float64 `json:"a"`
		}{nil, 0.5}, nil
	})
	s.Section("raw", func() (any, error) { return json.RawMessage(`{"y":1,"x":[]}`), nil })
}

func TestDumpGolden(t *testing.T) {
	f := newFixture(t)
	sections(f.Server)
	_, got, _ := call(t, "GET", f.url+"/config_dump")
	path := filepath.Join("testdata", "config_dump.json")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("dump differs (-want +got):\n%s", diff)
	}
	// The same as encoding/json makes of it as a whole.
	var tree any
	d := json.NewDecoder(strings.NewReader(got))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		t.Fatal(err)
	}
	whole, err := indent(tree, "")
	if err != nil || string(whole) != got {
		t.Errorf("dump is not in the form of encoding/json with two spaces: %v\n%s", err, cmp.Diff(string(whole), got))
	}
}

func TestDumpFails(t *testing.T) {
	f := newFixture(t)
	f.Section("bad", func() (any, error) { return nil, errors.New("no state") })
	if status, body, _ := call(t, "GET", f.url+"/config_dump"); status != 500 || body != "section bad: no state" {
		t.Errorf("got %d %q, want 500 with the error", status, body)
	}
	f.Section("bad", func() (any, error) { return func() {}, nil })
	if status, _, _ := call(t, "GET", f.url+"/config_dump"); status != 500 {
		t.Errorf("got %d for what is no JSON, want 500", status)
	}
}

func TestEmptyDump(t *testing.T) {
	f := newFixture(t)
	if _, body, _ := call(t, "GET", f.url+"/config_dump"); !json.Valid([]byte(body)) {
		t.Errorf("got %q, want JSON", body)
	}
}

func TestCerts(t *testing.T) {
	f := newFixture(t)
	f.Section("certificates", func() (any, error) {
		return json.RawMessage(`[
			{"identity":"spiffe://td/ns/a/sa/b","state":"Available","certChain":[{"serialNumber":"5","validFrom":"2023-03-11T05:57:26Z","expirationTime":"2023-03-12T05:57:26Z","pem":"x"},
			 {"serialNumber":"6","validFrom":"f","expirationTime":"t"}],"rootCerts":[{"serialNumber":"7","validFrom":"f","expirationTime":"t"}]},
			{"identity":"spiffe://td/ns/a/sa/c","state":"Initializing","certChain":[],"rootCerts":[]}]`), nil
	})
	_, got, _ := call(t, "GET", f.url+"/certs")
	var words [][]string
	for line := range strings.Lines(got) {
		words = append(words, strings.Fields(line))
	}
	want := [][]string{
		{"IDENTITY", "KIND", "STATE", "SERIAL", "NUMBER", "VALID", "FROM", "EXPIRES"},
		{"spiffe://td/ns/a/sa/b", "leaf", "Available", "5", "2023-03-11T05:57:26Z", "2023-03-12T05:57:26Z"},
		{"spiffe://td/ns/a/sa/b", "intermediate", "Available", "6", "f", "t"},
		{"spiffe://td/ns/a/sa/b", "root", "Available", "7", "f", "t"},
		{"spiffe://td/ns/a/sa/c", "leaf", "Initializing", "-", "-", "-"},
	}
	if diff := cmp.Diff(want, words); diff != "" {
		t.Errorf("certificates differ (-want +got):\n%s", diff)
	}
}

// Pages and sections can be added while the server runs.
func TestConcurrentRegistration(t *testing.T) {
	s := New(Config{Log: slog.New(slog.DiscardHandler)})
	var parts sync.WaitGroup
	for i := range 4 {
		parts.Go(func() {
			for range 100 {
				s.Handle("/page"+strconv.Itoa(i), "page", http.NotFoundHandler())
				s.Section("section"+strconv.Itoa(i), func() (any, error) { return i, nil })
				if _, err := s.dump.make(t.Context()); err != nil {
					t.Errorf("make = %v", err)
				}
			}
		})
	}
	parts.Wait()
}
