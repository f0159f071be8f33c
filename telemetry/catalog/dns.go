package catalog

// The families of name resolution.
const (
	DNSRequests         = "istio_dns_requests_total"
	DNSUpstreamRequests = "istio_dns_upstream_requests_total"
	DNSUpstreamFailures = "istio_dns_upstream_failures_total"
	DNSUpstreamDuration = "istio_dns_upstream_request_duration_seconds"
	DNSRefused          = "istio_ztunnel_dns_refused_total"
	OnDemandDNS         = "istio_on_demand_dns_total"
)

func dns() []Metric {
	query := []string{"request_query_type", "request_protocol", "source_canonical_service", "source_canonical_revision"}
	return []Metric{
		{Name: DNSRequests, Type: Counter, Labels: query, Help: "The total number of DNS queries"},
		{Name: DNSUpstreamRequests, Type: Counter, Labels: query, Help: "The total number of DNS queries that were forwarded"},
		{Name: DNSUpstreamFailures, Type: Counter, Labels: query, Help: "The total number of DNS queries that were forwarded and brought no record"},
		{Name: DNSUpstreamDuration, Type: Histogram, Unit: "s", Labels: query, Help: "The time that resolvers took for forwarded DNS queries"},
		{Name: DNSRefused, Type: Counter, Help: "The total number of DNS queries refused because too many were waiting"},
		{Name: OnDemandDNS, Type: Counter, Labels: []string{
			"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace", "source_principal",
			"source_app", "source_version", "source_cluster", "hostname",
		}, Help: "The total number of lookups of workloads that are only known by a hostname, whether the answer was kept or not"},
	}
}
