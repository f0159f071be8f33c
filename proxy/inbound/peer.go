package inbound

import (
	"ztunnel/proxy/hbone"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// target is what the policies need to know of the destination.
func target(w *workload.Workload) rbac.Target {
	return rbac.Target{Namespace: w.Namespace, Policies: w.AuthorizationPolicies}
}

// claims is what the proxy of a workload tells of it to the other end.
func claims(w *workload.Workload) string {
	b := hbone.Baggage{
		Cluster: w.ClusterID, Namespace: w.Namespace, WorkloadType: w.WorkloadType, Workload: w.WorkloadName,
		Service: w.CanonicalName, Version: w.CanonicalRevision, Region: w.Locality.Region, Zone: w.Locality.Zone,
	}
	return b.String()
}

// claimed is who the peer says it is. It is shown in labels and the log where
// nothing better is known, and decides nothing.
func claimed(b hbone.Baggage) *connection.Workload {
	if b == (hbone.Baggage{}) {
		return nil
	}
	return &connection.Workload{
		Pod: b.Service, Name: b.Workload, App: b.Workload, Namespace: b.Namespace,
		CanonicalName: b.Service, CanonicalRevision: b.Version,
		Cluster: b.Cluster, Region: b.Region, Zone: b.Zone,
	}
}

// counted is a stream that is served in this process, with its bytes counted
// as if an application had served it.
type counted struct {
	*hbone.Stream
	record *connection.Record
}

// Read counts what the peer sent.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if n > 0 {
		c.record.Received.Add(uint64(n))
	}
	return n, err
}

// Write counts what was sent to the peer.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Stream.Write(p)
	if n > 0 {
		c.record.Sent.Add(uint64(n))
	}
	return n, err
}
