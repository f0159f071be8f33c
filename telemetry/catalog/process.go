package catalog

// The families of the process.
const (
	Build     = "istio_build"
	BuildInfo = "ztunnel_build_info"

	OpenFDs = "process_open_fds"
	MaxFDs  = "process_max_fds"

	Pushes = "istio_ztunnel_telemetry_pushes_total"
)

func build() []Metric {
	return []Metric{
		{Name: Build, Type: Gauge, Labels: []string{"component", "tag"}, Stable: true, Help: "Istio component build info"},
		{Name: BuildInfo, Type: Gauge, Labels: []string{"version", "revision", "go_version", "crypto"}, Help: "Build of this ztunnel itself, as istio_build names the Istio version"},
		{Name: Pushes, Type: Counter, Labels: []string{"exporter", "result"}, Help: "The total number of pushes of telemetry to a collector, by exporter and result"},
	}
}

// process are the families of the standard process collector, but for the two
// gauges of descriptors, which follow the reference.
func process() []Metric {
	return []Metric{
		{Name: OpenFDs, Type: Gauge, Stable: true, Help: "Number of open file descriptors"},
		{Name: MaxFDs, Type: Gauge, Stable: true, Help: "Maximum number of open file descriptors"},
		{Name: "process_cpu_seconds_total", Type: Counter, Unit: "s", Stable: true, Help: "Total user and system CPU time spent in seconds"},
		{Name: "process_resident_memory_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Resident memory size in bytes"},
		{Name: "process_virtual_memory_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Virtual memory size in bytes"},
		{Name: "process_virtual_memory_max_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Maximum amount of virtual memory available in bytes"},
		{Name: "process_start_time_seconds", Type: Gauge, Unit: "s", Stable: true, Help: "Start time of the process since unix epoch in seconds"},
		{Name: "process_network_receive_bytes_total", Type: Counter, Unit: "By", Stable: true, Help: "Number of bytes received by the process over the network"},
		{Name: "process_network_transmit_bytes_total", Type: Counter, Unit: "By", Stable: true, Help: "Number of bytes sent by the process over the network"},
	}
}
