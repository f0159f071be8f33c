package catalog

import "slices"

// The families of connections.
const (
	Opened        = "istio_tcp_connections_opened_total"
	Closed        = "istio_tcp_connections_closed_total"
	Failed        = "istio_tcp_connections_failed_total"
	ReceivedBytes = "istio_tcp_received_bytes_total"
	SentBytes     = "istio_tcp_sent_bytes_total"
	Active        = "istio_tcp_connections_active"
	SocketsOpen   = "istio_tcp_sockets_open"
	Rejected      = "istio_tcp_connections_rejected_total"

	MetricSeries        = "istio_ztunnel_metric_series"
	MetricSeriesEvicted = "istio_ztunnel_metric_series_evicted_total"
	MetricOverflow      = "istio_ztunnel_metric_overflow_total"
)

// ResponseFlags is the label that tells opened, sent and received (always "-")
// from closed and failed.
const ResponseFlags = "response_flags"

// TrafficLabels returns the labels of the traffic families. The last four are
// absent together while neither end has a workload record.
func TrafficLabels() []string {
	return []string{
		"reporter",
		"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
		"source_principal", "source_app", "source_version", "source_cluster",
		"destination_service", "destination_service_namespace", "destination_service_name",
		"destination_workload", "destination_canonical_service", "destination_canonical_revision", "destination_workload_namespace",
		"destination_principal", "destination_app", "destination_version", "destination_cluster",
		"request_protocol", ResponseFlags, "connection_security_policy",
		"source_region", "source_zone", "destination_region", "destination_zone",
	}
}

func traffic() []Metric {
	labels := TrafficLabels()
	withoutFlags := slices.DeleteFunc(TrafficLabels(), func(l string) bool { return l == ResponseFlags })
	return []Metric{
		{Name: Opened, Type: Counter, Labels: labels, Stable: true, Help: "The total number of TCP connections opened"},
		{Name: Closed, Type: Counter, Labels: labels, Stable: true, Help: "The total number of TCP connections closed"},
		{Name: ReceivedBytes, Type: Counter, Unit: "By", Labels: labels, Stable: true, Help: "The size of total bytes received during request in case of a TCP connection"},
		{Name: SentBytes, Type: Counter, Unit: "By", Labels: labels, Stable: true, Help: "The size of total bytes sent during response in case of a TCP connection"},
		{Name: Failed, Type: Counter, Labels: labels, Help: "The total number of TCP connections that ended with a failure"},
		{Name: Active, Type: Gauge, Labels: withoutFlags, Help: "The number of TCP connections that are open"},
		{Name: SocketsOpen, Type: Gauge, Labels: []string{"reporter"}, Help: "The number of accepted downstream sockets that are held"},
		{
			Name: Rejected, Type: Counter, Labels: []string{"reporter", "reason", "destination_workload", "destination_workload_namespace"},
			Help: "The total number of connections refused before they were understood, by reason",
		},
	}
}

func ownSeries() []Metric {
	family := []string{"family"}
	return []Metric{
		{Name: MetricSeries, Type: Gauge, Labels: family, Help: "The number of label sets that a traffic family has"},
		{Name: MetricSeriesEvicted, Type: Counter, Labels: family, Help: "The total number of label sets evicted because they were idle"},
		{Name: MetricOverflow, Type: Counter, Labels: family, Help: "The total number of connections counted in an overflow series because the family was full"},
	}
}
