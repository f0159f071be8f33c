package catalog

// The families of the pods that the CNI node agent names. Those that begin with
// workload_manager_ are the reference's.
const (
	ProxiesActive  = "workload_manager_active_proxy_count"
	ProxiesPending = "workload_manager_pending_proxy_count"
	ProxiesStarted = "workload_manager_proxies_started_total"
	ProxiesStopped = "workload_manager_proxies_stopped_total"

	InpodEvents        = "istio_ztunnel_inpod_events_total"
	InpodStartDuration = "istio_ztunnel_inpod_start_duration_seconds"
	InpodPendingOldest = "istio_ztunnel_inpod_pending_oldest_seconds"
	CNIConnected       = "istio_ztunnel_cni_connected"
)

func inpod() []Metric {
	return []Metric{
		{Name: ProxiesActive, Type: Gauge, Help: "The total number current workloads with active proxies"},
		{Name: ProxiesPending, Type: Gauge, Help: "The total number current workloads with pending proxies"},
		{Name: ProxiesStarted, Type: Counter, Help: "The total number of proxies that were started"},
		{Name: ProxiesStopped, Type: Counter, Help: "The total number of proxies that were stopped"},
		{Name: InpodEvents, Type: Counter, Labels: []string{"type", "result"}, Help: "The total number of messages of the node agent, by type and result"},
		{Name: InpodStartDuration, Type: Histogram, Unit: "s", Help: "The time to start the proxy of a pod, also if that fails"},
		{Name: InpodPendingOldest, Type: Gauge, Unit: "s", Help: "The time that a pod has been waiting to be served, of the one that waits longest"},
		{Name: CNIConnected, Type: Gauge, Help: "Whether there is a connection to the node agent"},
	}
}
