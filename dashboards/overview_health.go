package dashboards

import (
	"slices"

	"ztunnel/telemetry/catalog"
)

func security() Row {
	return Row{Title: "Security", Height: 8, Panels: []Panel{
		&Timeseries{Frame: Frame{
			Title: "mTLS share of new connections", Unit: Share, Width: 8, None: "no connections",
			Description: "By reporter. At a destination, what is missing came in plaintext from clients outside of the mesh; at a source it went to addresses outside of the mesh.",
			Queries:     []Query{{Expr: sum("reporter", rate(catalog.Opened, mutualTLS)) + " / " + sum("reporter", rate(catalog.Opened)), Legend: "{{reporter}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "mTLS share of bytes", Unit: Share, Width: 8, None: "no traffic",
			Description: "Share of the bytes of requests and of responses that went with mutual TLS, over both sides.",
			Queries: []Query{
				{Expr: sum("", rate(catalog.ReceivedBytes, mutualTLS)) + " / " + sum("", rate(catalog.ReceivedBytes)), Legend: "requests (received)"},
				{Expr: sum("", rate(catalog.SentBytes, mutualTLS)) + " / " + sum("", rate(catalog.SentBytes)), Legend: "responses (sent)"},
			},
		}},
		&Timeseries{Stacked: true, Frame: Frame{
			Title: "Denied by policy", Unit: PerSecond, Width: 8, None: "no denials",
			Description: "Connections that an authorization policy has refused or cut, by the destination that it protects. The access log of the destination names the policy.",
			Queries:     []Query{{Expr: sum(destination, rate(catalog.Failed, denied)), Legend: "{{destination_workload}}.{{destination_workload_namespace}}"}},
		}},
	}}
}

func certificates() Row {
	expiry := []Threshold{{0, Red}, {3600, Yellow}, {6 * 3600, Green}}
	return Row{Title: "Certificates", Height: 7, Panels: slices.Concat([]Panel{
		&Table{Frame: Frame{
			Title: "Certificates that expire next", Unit: Seconds, Width: 8, None: "no certificates",
			Description: "Time that is left to the twenty that expire first, each the worst of all nodes. Renewal is at half of the life.",
			Thresholds:  expiry,
			Queries:     []Query{{Expr: "bottomk(20, " + least("identity", of(catalog.CertExpiry)) + " - time())", Legend: "Time left"}},
		}, Labels: []Column{{"identity", "Identity"}}, SortBy: "Time left", Ascending: true},
		&Table{Frame: Frame{
			Title: "Roots", Unit: Seconds, Width: 5, None: "no roots",
			Description: "Root certificates that came with certificates, by the beginning of their SHA-256 fingerprint, and how many processes hold each. During a rotation there is more than one.",
			Thresholds:  expiry,
			Queries: []Query{
				{Expr: least("fingerprint", of(catalog.RootExpiry)) + " - time()", Legend: "Time left"},
			},
		}, Labels: []Column{{"fingerprint", "Fingerprint"}}, SortBy: "Time left", Ascending: true},
		&Timeseries{Frame: Frame{
			Title: "Identities by state", Unit: Count, Width: 4,
			Description: "Identities that are held for local workloads. One that stays unavailable cannot connect.",
			Queries:     []Query{{Expr: sum("state", of(catalog.Certs)), Legend: "{{state}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Requests to the CA", Unit: PerSecond, Width: 4, None: "no requests",
			Description: "By result and gRPC code, and requests for an identity that were refused because too many are held.",
			Queries: []Query{
				{Expr: sum("result, code", rate(catalog.CSRs)) + " > 0", Legend: "{{result}} {{code}}"},
				{Expr: sum("", rate(catalog.IdentitiesRefused)), Legend: "refused: too many"},
			},
		}},
		&Timeseries{Frame: Frame{
			Title: "Time of a request to the CA (p99)", Unit: Seconds, Width: 3, None: "no requests",
			Description: "The time that 99 % of the requests stay below. A new workload's first connection waits for it.",
			Queries:     []Query{{Expr: percentile99("result", catalog.CSRDuration), Legend: "{{result}}"}},
		}},
	}, revocation())}
}

func telemetry() Row {
	return Row{Title: "Who reads telemetry", Height: 8, Panels: []Panel{
		&Table{Frame: Frame{
			Title: "Readers", Unit: Count, Width: 12, None: "no reads",
			Description: "Reads in the time shown, by the identity that mTLS has proven. Code 401 is a reader that policy has refused. Transport: hbone is through the mesh, loopback is the admin port, " +
				"plaintext is anybody. A reader whose only read fell between two scrapes has a row with 0.",
			Queries: []Query{{Expr: sum("peer_identity, surface, code, transport", increase(catalog.SurfaceRequests)), Legend: "Reads"}},
		}, Labels: []Column{{"peer_identity", "Reader"}, {"surface", "Surface"}, {"transport", "Transport"}, {"code", "Code"}}, SortBy: "Reads"},
		&Timeseries{Stacked: true, Frame: Frame{
			Title: "Reads by transport", Unit: PerSecond, Width: 6, None: "no reads",
			Description: "Reads of metrics, profiles and connections, by the way they came in and their status.",
			Queries:     []Query{{Expr: sum("transport, code", rate(catalog.SurfaceRequests)), Legend: "{{transport}} {{code}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Exposure and readiness", Unit: Count, Width: 6,
			Description: "Processes by TELEMETRY_EXPOSURE, and those whose metrics can be read through the mesh. Readiness of the pod does not depend on it.",
			Queries: []Query{
				{Expr: sum("mode", of(catalog.SurfaceExposure)), Legend: "exposure {{mode}}"},
				{Expr: sum("", of(catalog.SurfaceReady)), Legend: "ready"},
			},
		}},
	}}
}

func pipeline() Row {
	return Row{Title: "Telemetry pipeline", Height: 7, Panels: []Panel{
		&Timeseries{Stacked: true, Frame: Frame{
			Title: "Log lines", Unit: PerSecond, Width: 6,
			Description: "Lines written, by level. The access log is info, failed connections are error.",
			Queries:     []Query{{Expr: sum("level", rate(catalog.LogLines)), Legend: "{{level}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Log lines lost", Unit: PerSecond, Width: 6, None: "none",
			Description: "Lines that were dropped because standard output was too slow (traffic never waits for it), and writes that failed.",
			Thresholds:  []Threshold{{0, Green}, {0.001, Red}},
			Queries: []Query{
				{Expr: sum("scope, reason", rate(catalog.LogLinesDropped)) + " > 0", Legend: "{{scope}}, {{reason}}"},
				{Expr: sum("", rate(catalog.LogWriteErrors)), Legend: "failed writes"},
			},
		}},
		&Timeseries{Frame: Frame{
			Title: "Log queue", Unit: Count, Width: 3,
			Description: "Lines that wait to be written, of the process that has most. Nothing is lost before it is full.",
			Queries:     []Query{{Expr: most("", of(catalog.LogQueueLength)), Legend: "longest"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Series by family", Unit: Count, Width: 6,
			Description: "Label sets of the traffic families, of the process that has most. Idle ones are forgotten after METRICS_IDLE_EVICTION, METRICS_MAX_SERIES is the limit.",
			Queries:     []Query{{Expr: most("family", of(catalog.MetricSeries)), Legend: "{{family}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Series evicted, overflow", Unit: PerSecond, Width: 3,
			Description: "Evicted: idle label sets forgotten, which is normal. Overflow: connections counted in the series whose names are \"overflow\" because a family is full: their workloads are missing from " +
				"every other panel.",
			Queries: []Query{
				{Expr: sum("", rate(catalog.MetricSeriesEvicted)), Legend: "evicted"},
				{Expr: sum("", rate(catalog.MetricOverflow)), Legend: "overflow"},
			},
		}},
	}}
}

func tunnels() Row {
	return Row{Title: "Tunnels and life cycle", Height: 7, Panels: []Panel{
		&Timeseries{Frame: Frame{
			Title: "HBONE tunnels", Unit: Count, Width: 4,
			Description: "Open mTLS connections between ztunnels, by the role in them. Unused ones are kept for a while.",
			Queries:     []Query{{Expr: sum("role", of(catalog.HBONETunnels)), Legend: "{{role}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "HBONE streams", Unit: Count, Width: 4,
			Description: "Open streams in these tunnels, one for each connection of an application.",
			Queries:     []Query{{Expr: sum("role", of(catalog.HBONEStreams)), Legend: "{{role}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "HBONE faults", Unit: PerSecond, Width: 4, None: "none",
			Description: "Limits, deadlines and rules that peers have broken. A flood is a peer that misbehaves or attacks; timeouts are more often the network.",
			Queries:     []Query{{Expr: sum("kind", rate(catalog.HBONEFaults)) + " > 0", Legend: "{{kind}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Connections that wait for a tunnel", Unit: PerSecond, Width: 4, None: "none",
			Description: "New connections that found a tunnel to their destination's ztunnel, and those that had to wait until one was made. " +
				"Many that wait, while destinations stay the same, come from tunnels that end early.",
			Queries: []Query{
				{Expr: sum("", rate(catalog.PoolHits)), Legend: "found one"},
				{Expr: sum("", rate(catalog.PoolMisses)), Legend: "waited"},
			},
		}},
		&Timeseries{Frame: Frame{
			Title: "Reloads of the local configuration", Unit: Count, Width: 4, None: "none",
			Description: "Reloads by result, in the time of a point. After an error the old configuration stays, and the log names the field.",
			Queries: []Query{{
				Expr:   sum("result", "increase("+of(catalog.LocalConfigReloads)+"[$__rate_interval])"),
				Legend: "{{result}}",
			}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Drains and restarts", Unit: Count, Width: 4,
			Description: "Processes that drain, connections cut at the deadline of a drain, and processes younger than five minutes.",
			Queries: []Query{
				{Expr: sum("", of(catalog.Draining)), Legend: "draining"},
				{Expr: sum("", "increase("+of(catalog.DrainForced)+"[$__rate_interval])"), Legend: "connections cut"},
				{Expr: orZero(count("", of(catalog.Uptime)+" < 300")), Legend: "started"},
			},
		}},
	}}
}

func process() Row {
	return Row{Title: "Processes", Height: 8, Panels: []Panel{
		&Timeseries{Frame: Frame{
			Title: "CPU", Unit: Count, Width: 8,
			Description: "Cores in use, by process.",
			Queries:     []Query{{Expr: sum("pod", rate("process_cpu_seconds_total")), Legend: "{{pod}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Memory", Unit: Bytes, Width: 8,
			Description: "Resident memory, by process.",
			Queries:     []Query{{Expr: sum("pod", of("process_resident_memory_bytes")), Legend: "{{pod}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "File descriptors", Unit: Share, Width: 8,
			Description: "Share of the limit that is open, by process. At 100 % no connection can be accepted or dialled.",
			Thresholds:  []Threshold{{0, Green}, {0.8, Red}},
			Queries:     []Query{{Expr: most("pod", of(catalog.OpenFDs)+" / "+of(catalog.MaxFDs)), Legend: "{{pod}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Goroutines", Unit: Count, Width: 8,
			Description: "Goroutines, by process: about two for each open connection. Growth without connections is a leak.",
			Queries:     []Query{{Expr: sum("pod", of("go_goroutines")), Legend: "{{pod}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Wait for a processor (p99)", Unit: Seconds, Width: 8,
			Description: "The time that 99 % of the goroutines that are ready to run wait for a processor. More than a few milliseconds shows as latency of every connection: the process lacks CPU.",
			Queries:     []Query{{Expr: percentile99("pod", "go_sched_latencies_seconds"), Legend: "{{pod}}"}},
		}},
		&Table{Frame: Frame{
			Title: "Builds", Unit: Count, Width: 8,
			Description: "Versions of ztunnel itself, with the number of processes that run each. During a rollout there are two.",
			Queries:     []Query{{Expr: count("version, revision, go_version", of(catalog.BuildInfo)), Legend: "Processes"}},
		}, Labels: []Column{{"version", "Version"}, {"revision", "Revision"}, {"go_version", "Go"}}, SortBy: "Processes"},
		&Table{Frame: Frame{
			Title: "Istio versions", Unit: Count, Width: 8,
			Description: "Versions of the Istio installation that processes were told (ISTIO_META_ISTIO_VERSION), with their number.",
			Queries:     []Query{{Expr: count("tag", of(catalog.Build, ztunnel)), Legend: "Processes"}},
		}, Labels: []Column{{"tag", "Istio"}}, SortBy: "Processes"},
		&Timeseries{Frame: Frame{
			Title: "Pushes of telemetry", Unit: PerSecond, Width: 8, None: "no pushes",
			Description: "Pushes to a collector (OTLP) by result, where they are switched on.",
			Queries:     []Query{{Expr: sum("exporter, result", rate(catalog.Pushes)), Legend: "{{exporter}} {{result}}"}},
		}},
	}}
}
