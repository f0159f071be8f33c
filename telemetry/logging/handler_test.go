package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// at is the time of the lines of tests.
var at = time.Date(2024, 4, 11, 15, 38, 42, 182974999, time.FixedZone("", 3600)).Add(time.Hour)

// emit writes a line with a fixed time.
func emit(l *slog.Logger, level slog.Level, message string, attrs ...slog.Attr) {
	if !l.Enabled(context.Background(), level) {
		return
	}
	r := slog.NewRecord(at, level, message, 0)
	r.AddAttrs(attrs...)
	_ = l.Handler().Handle(context.Background(), r)
}

type bareText string

func (b bareText) LogBare() string { return string(b) }

type stringer struct{ text *string }

func (s stringer) String() string { return *s.text }

type conn struct{ src netip.AddrPort }

func (c *conn) LogFields(e *Encoder) {
	e.AddrPort("src.addr", c.src)
	e.String("src.workload", "shell")
	e.Bare("dst.hbone_addr", "echo.default:80")
	e.Uint("bytes_sent", 67)
	e.Int("delta", -1)
	e.Millis("duration", 13999*time.Microsecond)
}

// accessAttrs are the fields of an access line.
func accessAttrs() []slog.Attr {
	return []slog.Attr{
		slog.Any("src.addr", netip.MustParseAddrPort("10.244.0.24:46238")),
		slog.String("src.workload", "shell-6d8bcd654d-t88gp"), slog.String("src.namespace", "default"),
		slog.String("src.identity", "spiffe://cluster.local/ns/default/sa/default"), slog.String("src.cluster", "Kubernetes"),
		slog.Any("dst.addr", netip.MustParseAddrPort("[2001:db8::1]:15008")), slog.Any("dst.hbone_addr", bareText("10.96.108.116:80")),
		slog.String("dst.service", "echo.default.svc.cluster.local"), slog.String("dst.workload", "echo-1"),
		slog.String("dst.namespace", "default"), slog.String("dst.identity", "spiffe://cluster.local/ns/default/sa/echo"),
		slog.String("dst.cluster", "Kubernetes"), slog.String("direction", "outbound"),
		slog.Uint64("bytes_sent", 67), slog.Uint64("bytes_recv", 490), slog.String("duration", "13ms"),
	}
}

// someLines writes lines of all kinds.
func someLines(l *Logging) {
	access, inbound := l.Logger("access"), l.Logger("proxy::inbound")
	emit(access, slog.LevelInfo, "connection complete", accessAttrs()...)
	emit(access, slog.LevelError, "connection complete", slog.Any("error", errors.New(`io error: "x\y"`+"\n\t\r\x00\x01\u200b é")))
	emit(access, slog.LevelDebug, "connection opened", slog.Any("", &conn{netip.MustParseAddrPort("10.0.0.1:1")}))
	emit(inbound, slog.LevelInfo, "no fields")
	emit(inbound, slog.LevelWarn, "", slog.String("query", "A"), slog.Int("endpoints", 0))
	emit(inbound, LevelTrace, "")
	emit(l.Logger("telemetry"), slog.LevelInfo, "read")
	span := WithSpan(inbound, "proxy", slog.String("wl", "ns/pod"))
	span = WithSpan(span, "inbound", slog.String("id", "00ff"), slog.Any("peer", netip.MustParseAddrPort("10.0.0.1:15008")))
	emit(span, slog.LevelDebug, "in spans", slog.String("k", "v"))
	emit(WithSpan(inbound, "xds", slog.Int("id", 2)), slog.LevelInfo, "Stream established")
	emit(WithSpan(inbound, "bare"), slog.LevelInfo, "span without fields")
	emit(WithSpan(inbound, "odd", slog.String("a", "b c}"), slog.String("e", "")), slog.LevelInfo, "span with quotes")
	emit(inbound.With("peer", "p", "n", 1).WithGroup("g").With("x", "y"), slog.LevelInfo, "with", slog.String("z", "w"), slog.Group("h", slog.Bool("b", true)))
	var none *string
	emit(inbound, slog.LevelInfo, "kinds", slog.Float64("float", 1.5), slog.Duration("d", 1500*time.Millisecond), slog.Time("t", at),
		slog.Any("addr", netip.MustParseAddr("10.0.0.1")), slog.Any("prefix", netip.MustParsePrefix("10.0.0.0/8")),
		slog.Any("nil", nil), slog.Any("list", []int{1, 2}), slog.Any("bytes", []byte("b")), slog.Any("panics", stringer{none}),
		slog.Any("bare with space", bareText("a b")), slog.Any("pointer", &netip.AddrPort{}), slog.Attr{})
	emit(inbound, slog.LevelError, "message with \"quotes\",\ttab and\nline")
	emit(Multiline(inbound), slog.LevelInfo, "message with \ttab and\nline of its own")
	emit(inbound, slog.LevelInfo, "invalid \xff text", slog.String("s", "\xff"))
}

// written is what the log writes for some lines.
func written(t *testing.T, cfg Config, lines func(*Logging)) string {
	t.Helper()
	var out bytes.Buffer
	cfg.Output = &out
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	lines(l)
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestLinesGolden(t *testing.T) {
	for name, asJSON := range map[string]bool{"lines.txt": false, "lines.json": true} {
		t.Run(name, func(t *testing.T) {
			got := written(t, Config{Filter: "trace", JSON: asJSON}, someLines)
			path := filepath.Join("testdata", name)
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
				t.Errorf("lines differ (-want +got):\n%s", diff)
			}
		})
	}
}

// The example of the reference's documentation, byte for byte.
func TestAccessLineText(t *testing.T) {
	got := written(t, Config{}, func(l *Logging) { emit(l.Logger("access"), slog.LevelInfo, "connection complete", accessAttrs()...) })
	want := "2024-04-11T15:38:42.182974Z\tinfo\taccess\tconnection complete\t" +
		`src.addr=10.244.0.24:46238 src.workload="shell-6d8bcd654d-t88gp" src.namespace="default" src.identity="spiffe://cluster.local/ns/default/sa/default" ` +
		`src.cluster="Kubernetes" dst.addr=[2001:db8::1]:15008 dst.hbone_addr=10.96.108.116:80 dst.service="echo.default.svc.cluster.local" ` +
		`dst.workload="echo-1" dst.namespace="default" dst.identity="spiffe://cluster.local/ns/default/sa/echo" dst.cluster="Kubernetes" ` +
		`direction="outbound" bytes_sent=67 bytes_recv=490 duration="13ms"` + "\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("line differs (-want +got):\n%s", diff)
	}
}

func TestJSONLinesAreJSON(t *testing.T) {
	got := written(t, Config{Filter: "trace", JSON: true}, someLines)
	for line := range strings.Lines(got) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Errorf("line %s: %v", line, err)
		}
		if !strings.HasPrefix(line, `{"level":"`) || object["time"] != "2024-04-11T15:38:42.182974Z" || object["scope"] == "" {
			t.Errorf("line %s: want level, time, scope", line)
		}
	}
}

func TestLongStringsAreCut(t *testing.T) {
	long := strings.Repeat("é", maxString)
	for _, asJSON := range []bool{false, true} {
		got := written(t, Config{JSON: asJSON}, func(l *Logging) {
			l.Logger("state").Info(long, "s", long)
		})
		if len(got) < 2*maxString || len(got) > 2*maxString+1000 || strings.Count(got, "… (65536 bytes more)") != 2 || strings.Contains(got, "\ufffd") {
			t.Errorf("JSON %v: got %d bytes, want two strings of %d", asJSON, len(got), maxString)
		}
	}
}

// A logger that is not ours keeps the attributes of a span.
func TestWithSpanOfOtherHandler(t *testing.T) {
	var b bytes.Buffer
	l := slog.New(slog.NewTextHandler(&b, nil))
	WithSpan(l, "outbound", slog.String("id", "1")).Info("hello")
	if !strings.Contains(b.String(), "outbound.id=1") {
		t.Errorf("got %q, want outbound.id=1", b.String())
	}
}

func TestEmit(t *testing.T) {
	peer := &conn{netip.MustParseAddrPort("10.0.0.1:1")}
	for name, tc := range map[string]struct {
		json bool
		with func(*slog.Logger) *slog.Logger
	}{
		"text":       {false, func(l *slog.Logger) *slog.Logger { return l }},
		"JSON":       {true, func(l *slog.Logger) *slog.Logger { return l }},
		"attributes": {true, func(l *slog.Logger) *slog.Logger { return WithSpan(l.With("a", 1).WithGroup("g"), "s") }},
	} {
		t.Run(name, func(t *testing.T) {
			got := written(t, Config{Filter: "warn", JSON: tc.json}, func(l *Logging) {
				log := tc.with(l.Logger("state"))
				Emit(t.Context(), log, at, slog.LevelInfo, "not this", peer)
				Emit(t.Context(), log, at, slog.LevelWarn, "this", peer)
			})
			want := written(t, Config{Filter: "warn", JSON: tc.json}, func(l *Logging) {
				emit(tc.with(l.Logger("state")), slog.LevelWarn, "this", slog.Any("", peer))
			})
			if diff := cmp.Diff(want, got); diff != "" || strings.Count(got, "\n") != 1 {
				t.Errorf("line differs from that of an attribute (-want +got):\n%s", diff)
			}
		})
	}
}

// Common fields look the same whether they are written or copied, whatever
// logger the line is of.
func TestCommon(t *testing.T) {
	peer, common := &conn{netip.MustParseAddrPort("10.0.0.1:1")}, new(Common)
	plain := func(first bool) Fields { return fieldsFunc(func(e *Encoder) { second(e, first); peer.LogFields(e) }) }
	shared := func(first bool) Fields {
		return fieldsFunc(func(e *Encoder) { second(e, first); e.Common(common, peer) })
	}
	lines := func(l *Logging, of func(first bool) Fields) {
		log := l.Logger("access")
		for _, log := range []*slog.Logger{log, log, log.WithGroup("g"), log.With("a", "b"), WithSpan(log, "s", slog.Any("", of(true))), log} {
			for _, first := range []bool{true, true, false, false} {
				emit(log, slog.LevelInfo, "line", slog.Any("", of(first)))
			}
		}
	}
	for _, asJSON := range []bool{false, true} {
		want := written(t, Config{JSON: asJSON}, func(l *Logging) { lines(l, plain) })
		got := written(t, Config{JSON: asJSON}, func(l *Logging) { lines(l, shared) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("JSON %v: lines differ (-written +copied):\n%s", asJSON, diff)
		}
	}
	big := fieldsFunc(func(e *Encoder) { e.String("s", strings.Repeat("x", maxCommon)) })
	none := new(Common)
	written(t, Config{}, func(l *Logging) {
		emit(l.Logger("access"), slog.LevelInfo, "line", slog.Any("", fieldsFunc(func(e *Encoder) { e.Common(none, big) })))
	})
	if none.last.Load() != nil {
		t.Errorf("fields of more than %d bytes were kept", maxCommon)
	}
}

// second writes a field before others, unless they are the first.
func second(e *Encoder, first bool) {
	if !first {
		e.Uint("n", 1)
	}
}

type fieldsFunc func(e *Encoder)

func (f fieldsFunc) LogFields(e *Encoder) { f(e) }

func FuzzEscapes(f *testing.F) {
	f.Add("plain", "\x00\"\\\n\u200b\xff")
	f.Fuzz(func(t *testing.T, message, value string) {
		b := appendJSON([]byte{'"'}, value)
		var got string
		if err := json.Unmarshal(append(b, '"'), &got); err != nil || got != string([]rune(value)) {
			t.Errorf("appendJSON(%q) reads as %q, %v", value, got, err)
		}
		debug := string(appendDebug(nil, value))
		if strings.ContainsAny(debug, "\n\r\t\x00") || strings.Contains(strings.ReplaceAll(strings.ReplaceAll(debug, `\\`, ""), `\"`, ""), `"`) {
			t.Errorf("appendDebug(%q) = %q, want no quote and no control character", value, debug)
		}
		if text := string(appendMessage(nil, message, false)); strings.ContainsAny(text, "\n\t\r\x00\x1b") {
			t.Errorf("appendMessage(%q) = %q, want no control character", message, text)
		}
		if text := string(appendMessage(nil, message, true)); strings.ContainsAny(text, "\t\r\x00\x1b") {
			t.Errorf("appendMessage(%q) with lines = %q, want no control character but line breaks", message, text)
		}
	})
}
