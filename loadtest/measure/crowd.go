package measure

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/control"
	"ztunnel/proxy/api/workloadapi"
)

const (
	updateRate = 1000 // a second
	crowdSize  = 1000 // workloads that change in turn
)

// change makes updates at the rate until ctx ends. What could not be made in
// time is made up for.
func (t *turns) change(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	start, before := time.Now(), t.sent
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for due := before + int(time.Since(start).Seconds()*updateRate); t.sent < due; t.sent++ {
			if err := t.Plane.Update(control.Update{Workloads: []*workloadapi.Workload{crowd(t.sent%crowdSize, t.sent)}}); err != nil {
				return err
			}
		}
	}
}

// changeAll makes the crowd.
func (b *bed) changeAll() error {
	var all []*workloadapi.Workload
	for i := range crowdSize {
		all = append(all, crowd(i, -1))
	}
	return b.Plane.Update(control.Update{Workloads: all})
}

// crowd is the i-th workload of many on nodes elsewhere; change tells one version
// of it from another.
func crowd(i, change int) *workloadapi.Workload {
	return control.Pod(control.PodSpec{
		Cluster: cluster.ID, TrustDomain: cluster.TrustDomain, Namespace: "crowd", Name: fmt.Sprintf("crowd-%d", i), ServiceAccount: "crowd",
		Node: "elsewhere", Revision: crowdRevision(change), Captured: true,
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 128, byte(i >> 8), byte(i)})},
	})
}

func crowdRevision(change int) string { return fmt.Sprintf("change-%d-", change) }
