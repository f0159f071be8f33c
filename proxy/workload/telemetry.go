package workload

import (
	"sync/atomic"

	"ztunnel/telemetry/connection"
)

// telemetryCache holds what telemetry shows of a record, which is asked for by
// each of its connections. It is filled at the first of them.
type telemetryCache[T any] struct{ shown atomic.Pointer[T] }

// get returns what was made first. Several may make it at once; they are equal.
func (c *telemetryCache[T]) get(fill func(*T)) *T {
	if shown := c.shown.Load(); shown != nil {
		return shown
	}
	shown := new(T)
	fill(shown)
	if !c.shown.CompareAndSwap(nil, shown) {
		return c.shown.Load()
	}
	return shown
}

// Telemetry is the workload as metrics and the access log show it, with its
// identity as a string; nil for nil. The result is shared by all callers and
// must not be changed, nor the workload after the first call.
func (w *Workload) Telemetry() *connection.Workload {
	if w == nil {
		return nil
	}
	return &w.dialled().shown
}

// dialled is what is made of a workload when the first connection asks for it.
type dialled struct {
	shown      connection.Workload
	identities atomic.Pointer[identities]
}

func (w *Workload) dialled() *dialled {
	return w.telemetry.get(func(d *dialled) {
		d.shown = connection.Workload{
			Pod: w.Name, Name: w.WorkloadName, Namespace: w.Namespace,
			CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision,
			Cluster: w.ClusterID, Region: w.Locality.Region, Zone: w.Locality.Zone,
			Known: true, Principal: w.Identity().String(),
		}
	})
}

// Telemetry is the service as metrics and the access log show it; nil for nil.
// The result is shared by all callers and must not be changed, nor the service
// after the first call.
func (s *Service) Telemetry() *connection.Service {
	if s == nil {
		return nil
	}
	return s.telemetry.get(func(t *connection.Service) {
		*t = connection.Service{Hostname: s.Hostname, Name: s.Name, Namespace: s.Namespace}
	})
}
