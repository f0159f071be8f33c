package logging

import (
	"log/slog"
	"strings"
	"testing"
)

func TestParseStartFilter(t *testing.T) {
	const dns = "hickory_server::server=off"
	for _, tc := range []struct{ text, want string }{
		{"info", dns + ",info"},
		{"INFO", dns + ",info"},
		{"3", dns + ",info"},
		{"0", dns + ",off"},
		{"5", dns + ",trace"},
		{"off", dns + ",off"},
		{"access=debug,info", dns + ",access=debug,info"},
		{"info,access=debug", dns + ",access=debug,info"},
		{"access=WARN", dns + ",access=warn"},
		{"access=4", dns + ",access=debug"},
		{"access:debug,info", dns + ",access=debug,info"},
		{"proxy::inbound:debug", dns + ",proxy::inbound=debug"},
		{"proxy::inbound", dns + ",proxy::inbound=trace"},
		{"loud", dns + ",loud=trace"},
		{"ztunnel::proxy=warn,proxy=error", dns + ",proxy=error"},
		{"hickory_server::server=debug,info", "hickory_server::server=debug,info"},
		{" info , access=debug ,", dns + ",access=debug,info"},
		{"debug,warn", dns + ",warn"},
		{"dns=debug,tls=debug,access=debug", dns + ",access=debug,tls=debug,dns=debug"},
		{"", dns},
	} {
		f, err := parseStartFilter(tc.text)
		if err != nil || f.String() != tc.want {
			t.Errorf("parseStartFilter(%q) = %q, %v, want %q", tc.text, f, err, tc.want)
		}
	}
	for _, text := range []string{"access=loud", "a=b=c", "=info", ":info", "a b=info", "a[{x}]=info", "6=7", "access=", strings.Repeat("a", 200) + "=info"} {
		if f, err := parseStartFilter(text); err == nil {
			t.Errorf("parseStartFilter(%q) = %q, want an error", text, f)
		}
	}
}

func TestParseAddedClauses(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"debug", "debug"},
		{"access=warn", "access=warn"},
		{"access:warn", "access=warn"},
		{"ztunnel::proxy:warn", "ztunnel::proxy=warn"},
		{"ztunnel::proxy=warn,off", "ztunnel::proxy=warn,off"},
		{"access=info,access=debug", "access=debug"},
		{"", ""},
	} {
		ds, err := parseAddedClauses(tc.text)
		if got := filter(nil).with(ds).String(); err != nil || got != tc.want {
			t.Errorf("parseAddedClauses(%q) = %q, %v, want %q", tc.text, got, err, tc.want)
		}
	}
	for _, text := range []string{"loud", "INFO", "3", "access", "access=loud", "access:loud", "proxy::inbound", "info,loud"} {
		if ds, err := parseAddedClauses(text); err == nil {
			t.Errorf("parseAddedClauses(%q) = %v, want an error", text, ds)
		}
	}
}

func TestFilterLevel(t *testing.T) {
	for _, tc := range []struct {
		filter, scope string
		want          slog.Level
	}{
		{"info", "proxy::inbound", slog.LevelInfo},
		{"info", "access", slog.LevelInfo},
		{"access=off", "proxy", levelOff}, // no default
		{"info,access=off", "access", levelOff},
		{"info,proxy=debug", "proxy::inbound", slog.LevelDebug},
		{"info,ztunnel::proxy=debug", "proxy::inbound", slog.LevelDebug},
		{"info,proxy::inbound=warn,proxy=debug", "proxy::inbound", slog.LevelWarn},
		{"info,proxy::inbound=warn,ztunnel::proxy=debug", "proxy::inbound", slog.LevelWarn},
		{"info,ztunnel=debug", "proxy::inbound", slog.LevelDebug},
		{"info,ztunnel=debug", "access", slog.LevelInfo}, // a literal target
		{"info,ztunnel=debug,proxy=error", "proxy", slog.LevelError},
		{"trace,proxy::inbound=warn", "proxy::inbound_passthrough", slog.LevelWarn}, // a prefix of text
		{"trace,proxy::inbound=warn", "proxy::outbound", LevelTrace},
		{"ztunnel::access=debug,info", "access", slog.LevelInfo}, // no such target
		{"info,state=debug", "telemetry", slog.LevelInfo},
	} {
		l, err := New(Config{Filter: tc.filter})
		if err != nil {
			t.Fatal(err)
		}
		if got := slog.Level(l.scope(tc.scope).level.Load()); got != tc.want {
			t.Errorf("level of %s with %s = %v, want %v", tc.scope, tc.filter, got, tc.want)
		}
	}
}

func TestNewWithBadFilter(t *testing.T) {
	l, err := New(Config{Filter: "access=loud"})
	if err == nil || !strings.Contains(err.Error(), "access=loud") {
		t.Errorf("New = %v, want an error with the filter", err)
	}
	if got, want := l.Filter(), "hickory_server::server=off,info"; got != want {
		t.Errorf("Filter() = %q, want %q", got, want)
	}
}

func TestChangeFilter(t *testing.T) {
	l, err := New(Config{Filter: "warn,access=error"})
	if err != nil {
		t.Fatal(err)
	}
	access, state := l.Logger("access"), l.Logger("state")
	step := func(what, got string, err error, want string, accessOn, stateOn slog.Level) {
		t.Helper()
		if got = strings.TrimPrefix(got, dnsServerClause+","); err != nil || got != want || !strings.HasSuffix(l.Filter(), want) {
			t.Errorf("%s = %q, %v, want %q", what, got, err, want)
		}
		for log, level := range map[*slog.Logger]slog.Level{access: accessOn, state: stateOn} {
			if !log.Enabled(t.Context(), level) || log.Enabled(t.Context(), level-1) {
				t.Errorf("%s: lowest level is not %v", what, level)
			}
		}
	}
	step("start", l.Filter(), nil, "access=error,warn", slog.LevelError, slog.LevelWarn)
	got, err := l.AddFilter("debug")
	step("AddFilter(debug)", got, err, "access=error,debug", slog.LevelError, slog.LevelDebug)
	got, err = l.AddFilter("access:info")
	step("AddFilter(access:info)", got, err, "access=info,debug", slog.LevelInfo, slog.LevelDebug)
	got, err = l.SetFilter("ztunnel::state=trace")
	step("SetFilter(ztunnel::state=trace)", got, err, "ztunnel::state=trace,access=error,warn", slog.LevelError, LevelTrace)
	if got, err := l.AddFilter("access=info,loud"); err == nil {
		t.Errorf("AddFilter(access=info,loud) = %q, want an error", got)
	}
	step("Reset", l.Reset(), nil, "access=error,warn", slog.LevelError, slog.LevelWarn)
}

func TestFilterIsBounded(t *testing.T) {
	l, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 * maxDirectives {
		target := "a" + strings.Repeat("b", i%100) + strings.Repeat("::c", i/100) + "=info"
		if _, err := l.AddFilter(target); err != nil {
			if len(l.current) != maxDirectives {
				t.Errorf("AddFilter failed with %d directives, want %d", len(l.current), maxDirectives)
			}
			return
		}
	}
	t.Errorf("%d directives, want at most %d", len(l.current), maxDirectives)
}

func FuzzParseFilter(f *testing.F) {
	for _, seed := range []string{"info", "access=debug,info", "access:debug", "proxy::inbound", "a:::b", "::=1", "=,:", "ztunnel::=off"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if parsed, err := parseStartFilter(text); err == nil {
			again, err := parseStartFilter(parsed.String())
			if err != nil || again.String() != parsed.String() {
				t.Errorf("parseStartFilter(%q) = %q, %v, want the same again", parsed.String(), again, err)
			}
			parsed.level("proxy::inbound", "ztunnel::proxy::inbound")
		}
		ds, err := parseAddedClauses(text)
		if err != nil {
			return
		}
		shown := filter(nil).with(ds).String()
		again, err := parseAddedClauses(shown)
		if err != nil || filter(nil).with(again).String() != shown {
			t.Errorf("parseAddedClauses(%q) = %v, %v, want the same again", shown, again, err)
		}
	})
}
