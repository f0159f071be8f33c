package admin

import "testing"

// Every level can be set and is shown as it was set; clauses and a level come
// together.
func TestLogging_EveryLevel(t *testing.T) {
	f := newFixture(t)
	const current, dns = "current log level is ", "hickory_server::server=off,"
	set := func(query, want string) {
		t.Helper()
		if status, body, _ := call(t, "POST", f.url+"/logging"+query); status != 200 || body != current+want+"\n" {
			t.Errorf("%s: got %d %q, want 200 %q", query, status, body, current+want)
		}
	}
	set("", dns+"info")
	set("?reset", dns+"info")
	for _, level := range []string{"off", "error", "warn", "info", "debug", "trace"} {
		set("?reset&level="+level, dns+level)
		set("", dns+level)
		set("?reset&level=access="+level, dns+"access="+level+",info")
	}
	set("?reset&level=access=debug,info", dns+"access=debug,info")
	set("", dns+"access=debug,info")
}
