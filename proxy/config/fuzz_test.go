package config

import (
	"encoding/json"
	"strings"
	"testing"
)

// Whatever two variables of the table say together: the process starts with a configuration that can be shown, or ends with an
// error that names one of them and shows nothing that is secret.
func FuzzLoad(f *testing.F) {
	all := Variables()
	index := func(name string) uint16 {
		for i := range all {
			if all[i].Name == name {
				return uint16(i)
			}
		}
		f.Fatalf("no variable %s", name)
		return 0
	}
	for _, seed := range [][4]string{
		{"PROXY_MODE", "dedicated", "PROXY_WORKLOAD_INFO", "a/b/c"},
		{"LOCAL_XDS", "{}", "LOCAL_XDS_PATH", "x"},
		{"ISTIO_META_DNS_CAPTURE", "false", "XDS_ON_DEMAND", "true"},
		{"ENABLE_PROXY", "false", "ISTIO_META_DNS_CAPTURE", "false"},
		{"PROXY_CONFIG", "concurrency: 2\nproxyMetadata: {DNS_PROXY_ADDR: 'localhost:dns'}", "ZTUNNEL_WORKER_THREADS", "50%"},
		{"XDS_ADDRESS", "https://me:secret@host:port", "XDS_HEADER_<K>", "secret"},
		{"ISTIO_METAJSON_<K>", `{"a": [1e999]}`, "ISTIO_META_<K>", "\x00"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1]:4318/%zz", "OTEL_EXPORTER_OTLP_HEADERS", "a=b,c"},
		{"KEEPALIVE_TIME", "9223372036854775807s", "CSR_TIMEOUT", "0"},
		{"TELEMETRY_READERS", "a*,*b", "TELEMETRY_SURFACES", "metrics,metrics"},
		{"RUST_LOG", "a=b=c,,", "LOG_LEVEL", "\u2028"},
	} {
		f.Add(index(seed[0]), seed[1], index(seed[2]), seed[3])
	}
	dir, machine := f.TempDir(), machine(f, 4)
	f.Fuzz(func(t *testing.T, first uint16, firstValue string, second uint16, secondValue string) {
		values := []string{firstValue, secondValue}
		set := []Variable{all[int(first)%len(all)], all[int(second)%len(all)]}
		var environ []string
		const secret = "hunter2 is secret"
		for i, v := range set {
			if v.Secret && i == 0 {
				values[i] += secret
			}
			environ = append(environ, strings.Replace(v.Name, prefixMark, "key", 1)+"="+values[i])
		}
		c, err := load(environ, nil, dir, machine)
		if err == nil {
			if _, err := json.Marshal(c.Dump()); err != nil {
				t.Errorf("the dump of %q: %v", environ, err)
			}
			return
		}
		text := err.Error()
		named := strings.Contains(text, "proxy config") // what several sources make together
		for _, v := range set {
			name := strings.TrimSuffix(v.Name, prefixMark)
			named = named || strings.Contains(text, strings.TrimPrefix(name, "ISTIO_META_"))
			if name == "PROXY_CONFIG" { // it has values of others
				named = named || strings.Contains(text, "DNS_PROXY_ADDR") || strings.Contains(text, "XDS_ADDRESS")
			}
		}
		if strings.Contains(text, secret) {
			t.Errorf("the error shows the secret of %q: %q", environ, text)
		}
		if !named {
			t.Errorf("the error of %q names none of them: %q", environ, text)
		}
	})
}
