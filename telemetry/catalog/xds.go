package catalog

// The families of the client of the control plane.
const (
	XDSTerminations  = "istio_xds_connection_terminations_total"
	XDSMessages      = "istio_xds_message_total"
	XDSMessageBytes  = "istio_xds_message_bytes_total"
	XDSConnected     = "istio_ztunnel_xds_connected"
	XDSLastMessage   = "istio_ztunnel_xds_last_message_timestamp_seconds"
	XDSLastAck       = "istio_ztunnel_xds_last_ack_timestamp_seconds"
	XDSNacks         = "istio_ztunnel_xds_nacks_total"
	XDSRejected      = "istio_ztunnel_xds_rejected_resources_total"
	XDSUnchanged     = "istio_ztunnel_xds_unchanged_resources_total"
	XDSResources     = "istio_ztunnel_xds_resources"
	XDSApplyDuration = "istio_ztunnel_xds_apply_duration_seconds"
	XDSBackoff       = "istio_ztunnel_xds_connect_backoff_seconds"
	XDSDemands       = "istio_ztunnel_xds_demand_total"
	XDSDemandWait    = "istio_ztunnel_xds_demand_wait_seconds"
)

func xds() []Metric {
	byType := []string{"url"}
	return []Metric{
		{Name: XDSTerminations, Type: Counter, Labels: []string{"reason"}, Help: "The total number of streams to the control plane that ended, by reason"},
		{Name: XDSMessages, Type: Counter, Labels: byType, Help: "The total number of responses of the control plane, by type"},
		{Name: XDSMessageBytes, Type: Counter, Unit: "By", Labels: byType, Help: "The total size of the resources in responses of the control plane, by type"},
		{Name: XDSConnected, Type: Gauge, Labels: []string{"address"}, Help: "Whether there is a stream to the control plane"},
		{Name: XDSLastMessage, Type: Gauge, Unit: "s", Labels: byType, Help: "When the last response of the control plane came, as Unix time, by type"},
		{Name: XDSLastAck, Type: Gauge, Unit: "s", Labels: byType, Help: "When the last response of the control plane was accepted, as Unix time, by type"},
		{Name: XDSNacks, Type: Counter, Labels: byType, Help: "The total number of responses of the control plane that were rejected, by type"},
		{Name: XDSRejected, Type: Counter, Labels: byType, Help: "The total number of resources that were rejected, by type"},
		{Name: XDSUnchanged, Type: Counter, Labels: byType, Help: "The total number of resources that were received in the version in force, by type"},
		{Name: XDSResources, Type: Gauge, Labels: byType, Help: "The number of resources of the control plane in force, by type"},
		{Name: XDSApplyDuration, Type: Histogram, Unit: "s", Labels: byType, Help: "The time to put a response of the control plane into force, by type"},
		{Name: XDSBackoff, Type: Gauge, Unit: "s", Help: "The pause before the next attempt to reach the control plane, 0 while connected"},
		{Name: XDSDemands, Type: Counter, Labels: []string{"result"}, Help: "The total number of addresses that were asked for on demand, by result"},
		{Name: XDSDemandWait, Type: Histogram, Unit: "s", Help: "The time that connections waited for what they asked for on demand"},
	}
}
