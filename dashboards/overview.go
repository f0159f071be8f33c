package dashboards

import (
	"slices"

	"ztunnel/telemetry/catalog"
)

// The matchers that several panels use.
const (
	atSource  = `reporter="source"`
	mutualTLS = `connection_security_policy="mutual_tls"`
	denied    = `response_flags="DENY"`
	ztunnel   = `component="ztunnel"`
)

const destination = "destination_workload, destination_workload_namespace"

// Overview is the dashboard that one looks at first: what connects, what fails
// and why, how much of it is mTLS, whether control plane, CA and CNI agent are
// there, who reads telemetry, and how the processes do.
func Overview() *Dashboard {
	return &Dashboard{
		UID:   "ztunnel-go-overview",
		Title: "ztunnel overview",
		Description: "Connections, failures, security, control plane, certificates, pods, telemetry and resources of ztunnel. A connection inside of the mesh is counted twice, by the ztunnel of the client " +
			`(reporter "source") and by that of the server (reporter "destination"): panels tell the two apart or use one. Made by "make dashboards", do not edit.`,
		Tags: []string{"istio", "ambient", "ztunnel"},
		Variables: []Variable{
			{
				Name: "node", Label: "Node", Description: "Nodes whose ztunnels are listed under Pod.", All: ".*",
				Query: "label_values(" + catalog.Build + "{" + ztunnel + "}, node)",
			},
			{
				Name: "pod", Label: "Pod", Description: "The ztunnels. Everything below is of them only.",
				Query: "label_values(" + catalog.Build + "{" + ztunnel + `,node=~"$node"}, pod)`,
			},
		},
		Rows: []Row{
			glance(), connections(), traffic(), security(), controlPlane(), certificates(), nodePods(), telemetry(), pipeline(), tunnels(), process(),
		},
	}
}

func glance() Row {
	return Row{Title: "At a glance", Height: 4, Panels: slices.Concat([]Panel{
		&Stat{Frame: Frame{
			Title: "ztunnels", Unit: Count, Width: 3, Queries: []Query{{Expr: count("", of(catalog.Build, ztunnel))}},
			Description: "Processes that were scraped last. Compare it with the number of nodes.",
		}},
		&Stat{Frame: Frame{
			Title: "Open connections", Unit: Count, Width: 3, None: "none yet",
			Description: "TCP connections of applications that are open now, by the side that reports them.",
			Queries:     []Query{{Expr: sum("reporter", of(catalog.Active)), Legend: "{{reporter}}"}},
		}},
		&Stat{Frame: Frame{
			Title: "Failed, as clients see it", Unit: Share, Width: 4, None: "no connections",
			Description: "Connections that ended in a failure per connection opened, at the side of the client. Denials by policy are in it: the client's ztunnel sees one as " +
				"CONNECT, HTTP 401.",
			Thresholds: []Threshold{{0, Green}, {0.01, Yellow}, {0.05, Red}},
			Queries:    []Query{{Expr: orZero(sum("", rate(catalog.Failed, atSource))) + " / " + sum("", rate(catalog.Opened, atSource))}},
		}},
		&Stat{Frame: Frame{
			Title: "mTLS share", Unit: Share, Width: 3, None: "no connections",
			Description: "Share of new connections with mutual TLS, over both sides. Traffic that leaves the mesh or comes from outside has none.",
			Thresholds:  []Threshold{{0, Red}, {0.5, Yellow}, {0.9, Green}},
			Queries:     []Query{{Expr: orZero(sum("", rate(catalog.Opened, mutualTLS))) + " / " + sum("", rate(catalog.Opened))}},
		}},
		&Stat{Frame: Frame{
			Title: "First certificate expires in", Unit: Seconds, Width: 3, None: "no certificates",
			Description: "Certificates are renewed at half of their life. Below an hour, renewal has failed for long.",
			Thresholds:  []Threshold{{0, Red}, {3600, Yellow}, {6 * 3600, Green}},
			Queries:     []Query{{Expr: least("", of(catalog.CertExpiry)) + " - time()"}},
		}},
		&Stat{Frame: Frame{
			Title: "Fake CA", Unit: Count, Width: 2,
			Description: "Processes that sign their certificates themselves (FAKE_CA), with a root whose key is public. Such certificates prove nothing: only for tests.",
			Thresholds:  []Threshold{{0, Green}, {1, Red}},
			Queries:     []Query{{Expr: sum("", of(catalog.FakeCA))}},
		}, Texts: map[string]string{"0": "none"}},
		&Stat{Frame: Frame{
			Title: "Plaintext metrics", Unit: Count, Width: 2,
			Description: "Processes with TELEMETRY_EXPOSURE both or plaintext: anybody who reaches their port 15020 reads their metrics, unseen by policy.",
			Thresholds:  []Threshold{{0, Green}, {1, Red}},
			Queries:     []Query{{Expr: orZero(sum("", of(catalog.SurfaceExposure, `mode=~"both|plaintext"`)))}},
		}, Texts: map[string]string{"0": "none"}},
		&Stat{Frame: Frame{
			Title: "Draining", Unit: Count, Width: 2,
			Description: "Processes that are shutting down: ready no more, while open connections come to their end.",
			Thresholds:  []Threshold{{0, Green}, {1, Yellow}},
			Queries:     []Query{{Expr: sum("", of(catalog.Draining))}},
		}, Texts: map[string]string{"0": "none"}},
		&Stat{Frame: Frame{
			Title: "Panics", Unit: Count, Width: 2,
			Description: "Panics in the time shown that the process has survived. Each is a bug; the log has its stack.",
			Thresholds:  []Threshold{{0, Green}, {1, Red}},
			Queries:     []Query{{Expr: sum("", increase(catalog.Panics))}},
		}},
	}, nodeGlance())}
}

func connections() Row {
	return Row{Title: "Connections", Height: 8, Panels: []Panel{
		&Timeseries{Frame: Frame{
			Title: "Opened and closed", Unit: PerSecond, Width: 8, None: "no connections",
			Description: "New and ended TCP connections per second. At a destination with mTLS each stream of a tunnel is a connection. Opened counts before the next hop is dialled, so that failures are in it.",
			Queries: []Query{
				{Expr: sum("reporter", rate(catalog.Opened)), Legend: "opened, {{reporter}}"},
				{Expr: sum("reporter", rate(catalog.Closed)), Legend: "closed, {{reporter}}"},
			},
		}},
		&Timeseries{Frame: Frame{
			Title: "Open", Unit: Count, Width: 8, None: "no connections",
			Description: "Connections that are open. Opened minus closed is no substitute: the two differ in response_flags.",
			Queries:     []Query{{Expr: sum("reporter", of(catalog.Active)), Legend: "{{reporter}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Sockets", Unit: Count, Width: 8, None: "no sockets",
			Description: "Accepted sockets that are held. At a source there is one for each connection; at a destination one for each tunnel, however many connections it carries, and one for each " +
				"plaintext connection. Sockets that grow while connections do not are a leak.",
			Queries: []Query{{Expr: sum("reporter", of(catalog.SocketsOpen)), Legend: "{{reporter}}"}},
		}},
		&Timeseries{Stacked: true, Frame: Frame{
			Title: "Failures by response_flags", Unit: PerSecond, Width: 8, None: "no failures",
			Description: "DENY: policy, only told at the destination (a source sees HTTP 401 as CONNECT). CONNECT: the next hop cannot be reached, or any error without a flag of its own. " +
				"TLS_FAILURE and H2_HANDSHAKE_FAILURE: the tunnel does not come up. NETWORK_POLICY: port 15008 does not answer, probably a NetworkPolicy. IDENTITY_ERROR: no certificate. CERT_REVOKED: the peer's is revoked.",
			Queries: []Query{{Expr: sum("reporter, response_flags", rate(catalog.Failed)), Legend: "{{response_flags}}, {{reporter}}"}},
		}},
		&Timeseries{Stacked: true, Frame: Frame{
			Title: "Rejections by reason", Unit: PerSecond, Width: 8, None: "no rejections",
			Description: "Connections refused before they were understood, so that they count as neither opened nor failed: no certificate, unknown address, no healthy endpoint, limits. " +
				"The log tells each with its addresses.",
			Queries: []Query{{Expr: sum("reporter, reason", rate(catalog.Rejected)) + " > 0", Legend: "{{reason}}, {{reporter}}"}},
		}},
		&Table{Frame: Frame{
			Title: "Most failures by destination", Unit: Share, Width: 8, None: "no failures",
			Description: "Failed connections per connection opened, as the clients see it, of the ten worst destinations. " +
				`A destination "unknown" is outside of the mesh.`,
			Thresholds: []Threshold{{0, Green}, {0.01, Yellow}, {0.05, Red}},
			Queries: []Query{{
				Expr:   top("10", sum(destination, rate(catalog.Failed, atSource))+" / "+sum(destination, rate(catalog.Opened, atSource))),
				Legend: "Failed",
			}},
		}, Labels: []Column{{"destination_workload_namespace", "Namespace"}, {"destination_workload", "Workload"}}, SortBy: "Failed"},
	}}
}

// direction explains the names of the byte counters.
const direction = `Received is what clients send to servers, the request; sent is what servers answer, the response: the names are from the server's point of view, at both reporters, ` +
	"as everywhere in Istio. Payload only, without TLS and HTTP/2."

func traffic() Row {
	const pair = "source_workload, source_workload_namespace, " + destination
	return Row{Title: "Bytes", Height: 8, Panels: []Panel{
		&Timeseries{Frame: Frame{
			Title: "Requests (received)", Unit: BytesPerSecond, Width: 6, None: "no traffic", Description: direction,
			Queries: []Query{{Expr: sum("reporter", rate(catalog.ReceivedBytes)), Legend: "{{reporter}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Responses (sent)", Unit: BytesPerSecond, Width: 6, None: "no traffic", Description: direction,
			Queries: []Query{{Expr: sum("reporter", rate(catalog.SentBytes)), Legend: "{{reporter}}"}},
		}},
		&Table{Frame: Frame{
			Title: "Busiest pairs of workloads", Unit: BytesPerSecond, Width: 12, None: "no traffic",
			Description: "The twenty with most bytes of requests and the twenty with most of responses, as the clients' side reports them. " + direction,
			Queries: []Query{
				{Expr: top("20", sum(pair, rate(catalog.ReceivedBytes, atSource))), Legend: "Requests"},
				{Expr: top("20", sum(pair, rate(catalog.SentBytes, atSource))), Legend: "Responses"},
			},
		}, Labels: []Column{
			{"source_workload_namespace", "Client namespace"},
			{"source_workload", "Client"},
			{"destination_workload_namespace", "Server namespace"},
			{"destination_workload", "Server"},
		}, SortBy: "Responses"},
	}}
}
