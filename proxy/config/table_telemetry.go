package config

import (
	"net/netip"
	"time"
)

// loggingVariables are about log lines.
func loggingVariables() []variable {
	return []variable{
		{
			Variable: Variable{Name: "RUST_LOG", Type: "list of `level` and `scope=level`", Unset: "`LOG_LEVEL`, else `info`", Meaning: "what is logged; a filter that does not parse is warned about and replaced by `info`"},
			set:      intoPointer(text, func(in *inputs) **string { return &in.rustLog }),
		},
		{
			Variable: Variable{Name: "LOG_LEVEL", Type: "as `RUST_LOG`", Meaning: "another name for it"},
			set:      intoPointer(text, func(in *inputs) **string { return &in.logLevel }),
		},
		{
			Variable: Variable{Name: "LOG_FORMAT", Type: "`json` or anything else", Default: "plain", Meaning: "`json`: one JSON object per line"},
			set:      into(isExactly("json"), func(in *inputs) *bool { return &in.LogJSON }),
		},
		{
			Variable: Variable{Name: "AUTHZ_POLICY_INFO_LOGGING", Type: "`true` or anything else", Default: "false", Meaning: "log policy decisions at info instead of debug"},
			set:      into(isExactly("true"), func(in *inputs) *bool { return &in.AuthzInfoLogging }),
		},
		{
			Variable: Variable{Name: "ZTUNNEL_LOG_OVERFLOW", Type: "`drop` or `block`", Default: "drop", Meaning: "what a full log queue does to connection and DNS lines; dropped lines are counted, blocking stalls traffic"},
			set: func(in *inputs, value string) error {
				word, err := oneOf("drop", "block")(value)
				in.Telemetry.LogOverflowBlock = word == "block"
				return err
			},
		},
		{Variable: Variable{Name: "RUST_BACKTRACE", Type: "any", Meaning: "set by the chart; without effect", Status: Ignored}},
	}
}

// telemetryVariables are about who can read what.
func telemetryVariables() []variable {
	return []variable{
		{
			Variable: Variable{Name: "TELEMETRY_EXPOSURE", Type: "`mesh`, `both` or `plaintext`", Default: "mesh", Meaning: "where metrics are read: through the mesh only, also in plaintext, or only so"},
			set:      into(oneOf(ExposureMesh, ExposureBoth, ExposurePlaintext), func(in *inputs) *Exposure { return &in.Telemetry.Exposure }),
		},
		{
			Variable: Variable{Name: "STATS_ADDR", Type: "`IP:PORT`", Unset: "all addresses, port 15020 or `statsPort`", Meaning: "the plaintext listener, where the exposure asks for one"},
			set:      into(addrPort, func(in *inputs) *netip.AddrPort { return &in.statsAddr }),
		},
		{
			Variable: Variable{Name: "TELEMETRY_SURFACES", Type: "list of `metrics`, `profiles`, `connections`", Default: "metrics", Meaning: "virtual ports that are on: 15020, 15022, 15023 (the last in a later version)"},
			set:      into(wordsOf("metrics", "profiles", "connections"), func(in *inputs) *[]string { return &in.Telemetry.Surfaces }),
		},
		{
			Variable: Variable{Name: "TELEMETRY_READERS", Type: "list of principals", Unset: "whom policy allows", Meaning: "nobody else may read, whatever policy says: `cluster.local/ns/NS/sa/SA`, `prefix*`, `*suffix`, `*`"},
			set:      into(listOf(principalPattern), func(in *inputs) *[]string { return &in.Telemetry.Readers }),
		},
		{
			Variable: Variable{Name: "TELEMETRY_SCOPES_FILE", Type: "path", Meaning: "file saying which reader sees which namespaces", Status: Later},
			set:      into(text, func(in *inputs) *string { return &in.Telemetry.ScopesFile }),
		},
		{
			Variable: Variable{Name: "TELEMETRY_PUSH_VIA", Type: "`auto`, `mesh` or `direct`", Default: "auto", Meaning: "how pushed telemetry travels; `auto`: through the mesh when its endpoint is a mesh address", Status: Later},
			set:      into(oneOf(PushAuto, PushMesh, PushDirect), func(in *inputs) *PushVia { return &in.Telemetry.PushVia }),
		},
		{
			Variable: Variable{Name: "METRICS_IDLE_EVICTION", Type: "duration", Default: "1h", Meaning: "how long a series without open connections is kept; 0 is for ever"},
			set:      into(parseDuration, func(in *inputs) *time.Duration { return &in.Telemetry.MetricsIdleEviction }),
		},
		{
			Variable: Variable{Name: "METRICS_MAX_SERIES", Type: "integer", Default: "50000", Meaning: "most label sets of one metric family; more are counted in one overflow series"},
			set:      into(number[int](1, 10_000_000), func(in *inputs) *int { return &in.Telemetry.MetricsMaxSeries }),
		},
	}
}

// otlpVariables are the standard ones of OpenTelemetry for metrics. The
// variants with METRICS in their names stand after the general ones, over
// which they win.
func otlpVariables() []variable {
	const general, special = "OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_METRICS_"
	rows := []variable{
		{
			Variable: Variable{Name: "OTEL_SDK_DISABLED", Type: "bool", Default: "false", Meaning: "push nothing (metrics can still be read)"},
			set:      into(otelBoolean, func(in *inputs) *bool { return &in.otlp.disabled }),
		},
		{
			Variable: Variable{Name: "OTEL_METRICS_EXPORTER", Type: "list of `otlp`, `prometheus`, `none`", Unset: "`otlp` if an endpoint is set, else `none`", Meaning: "whether to push; reading metrics does not depend on it"},
			set:      into(wordsOf("otlp", "prometheus", "none"), func(in *inputs) *[]string { return &in.otlp.exporters }),
		},
		{
			Variable: Variable{Name: general + "ENDPOINT", Type: "URL", Unset: "`http://localhost:4317` (grpc) or `http://localhost:4318`", Meaning: "collector; setting it switches the push on; with http, `/v1/metrics` is added"},
			set:      into(text, func(in *inputs) *string { return &in.otlp.endpoint }),
		},
		{
			Variable: Variable{Name: special + "ENDPOINT", Type: "URL", Meaning: "the same for metrics only, taken as it is"},
			set:      into(text, func(in *inputs) *string { return &in.otlp.metricsEndpoint }),
		},
		{
			Variable: Variable{Name: "OTEL_METRIC_EXPORT_INTERVAL", Type: "milliseconds", Default: "60000", Meaning: "time between two pushes"},
			set:      into(milliseconds, func(in *inputs) *time.Duration { return &in.Telemetry.OTLP.Interval }),
		},
		{
			Variable: Variable{Name: "OTEL_METRIC_EXPORT_TIMEOUT", Type: "milliseconds", Default: "30000", Meaning: "deadline of collecting and pushing together"},
			set:      into(milliseconds, func(in *inputs) *time.Duration { return &in.Telemetry.OTLP.CollectTimeout }),
		},
		{
			Variable: Variable{Name: "OTEL_SERVICE_NAME", Type: "string", Unset: "`service.name` of `OTEL_RESOURCE_ATTRIBUTES`, else `ztunnel`", Meaning: "resource attribute `service.name`"},
			set:      into(text, func(in *inputs) *string { return &in.Telemetry.OTLP.ServiceName }),
		},
		{
			Variable: Variable{Name: "OTEL_RESOURCE_ATTRIBUTES", Type: "list of `name=value`", Meaning: "further resource attributes, values percent-encoded"},
			set:      into(otelAttributes, func(in *inputs) *map[string]string { return &in.Telemetry.OTLP.ResourceAttributes }),
		},
	}
	for _, row := range []variable{
		{
			Variable: Variable{Name: "PROTOCOL", Type: "`grpc` or `http/protobuf`", Default: "http/protobuf", Meaning: "protocol of the push"},
			set:      into(oneOf("grpc", "http/protobuf"), func(in *inputs) *string { return &in.Telemetry.OTLP.Protocol }),
		},
		{
			Variable: Variable{Name: "HEADERS", Type: "list of `name=value`", Meaning: "headers of each push, values percent-encoded", Secret: true},
			set:      into(otelHeaders, func(in *inputs) *[]Header { return &in.Telemetry.OTLP.Headers }),
		},
		{
			Variable: Variable{Name: "TIMEOUT", Type: "milliseconds", Default: "10000", Meaning: "deadline of one push"},
			set:      into(milliseconds, func(in *inputs) *time.Duration { return &in.Telemetry.OTLP.Timeout }),
		},
		{
			Variable: Variable{Name: "CERTIFICATE", Type: "path", Unset: "roots of the system", Meaning: "roots that verify the collector"},
			set:      into(text, func(in *inputs) *string { return &in.Telemetry.OTLP.Certificate }),
		},
		{
			Variable: Variable{Name: "INSECURE", Type: "bool", Default: "false", Meaning: "no TLS, for a grpc endpoint without a scheme"},
			set:      into(otelBoolean, func(in *inputs) *bool { return &in.otlp.insecure }),
		},
		{
			Variable: Variable{Name: "COMPRESSION", Type: "`gzip` or `none`", Default: "none", Meaning: "compression of the push"},
			set: func(in *inputs, value string) error {
				word, err := oneOf("none", "gzip")(value)
				in.Telemetry.OTLP.Gzip = word == "gzip"
				return err
			},
		},
	} {
		variant := row
		name := row.Name
		row.Name, variant.Name = general+name, special+name
		variant.Default, variant.Unset, variant.Meaning = "", "`"+row.Name+"`", "the same for metrics only"
		rows = append(rows, row, variant)
	}
	for i := range rows {
		rows[i].emptyUnset = true
	}
	return rows
}

// pyroscopeVariables are about pushing profiles.
func pyroscopeVariables() []variable {
	return []variable{
		{
			Variable: Variable{Name: "PYROSCOPE_SERVER_ADDRESS", Type: "URL", Meaning: "server that profiles are pushed to; unset or empty: none are"},
			set:      into(webURL, func(in *inputs) *string { return &in.Telemetry.Pyroscope.ServerAddress }), emptyUnset: true,
		},
		{
			Variable: Variable{Name: "PYROSCOPE_APPLICATION_NAME", Type: "string", Default: "ztunnel", Meaning: "name of the profiles"},
			set:      into(text, func(in *inputs) *string { return &in.Telemetry.Pyroscope.ApplicationName }), emptyUnset: true,
		},
		{
			Variable: Variable{Name: "PYROSCOPE_BASIC_AUTH_USER", Type: "string", Meaning: "user at the server"},
			set:      into(text, func(in *inputs) *string { return &in.Telemetry.Pyroscope.BasicAuthUser }),
		},
		{
			Variable: Variable{Name: "PYROSCOPE_BASIC_AUTH_PASSWORD", Type: "string", Meaning: "its password", Secret: true},
			set:      into(secret, func(in *inputs) *Secret { return &in.Telemetry.Pyroscope.BasicAuthPassword }),
		},
		{
			Variable: Variable{Name: "PYROSCOPE_TENANT_ID", Type: "string", Meaning: "tenant at the server"},
			set:      into(text, func(in *inputs) *string { return &in.Telemetry.Pyroscope.TenantID }),
		},
		{
			Variable: Variable{Name: "PYROSCOPE_UPLOAD_RATE", Type: "duration", Default: "15s", Meaning: "time between two uploads"},
			set:      into(positive, func(in *inputs) *time.Duration { return &in.Telemetry.Pyroscope.UploadRate }),
		},
	}
}
