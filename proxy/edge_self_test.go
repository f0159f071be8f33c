package proxy

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection/connectiontest"
	"ztunnel/telemetry/surface"
)

// The process is a workload of the mesh: its metrics are read over HBONE, by its
// own identity, and that is counted and logged like any connection. Other ports of
// it lead nowhere.
func TestEdge_SelfIsRead(t *testing.T) {
	w := newNode(t)
	metrics := connectiontest.New(t, w.Recorder)
	own := proxytest.Workload("ztunnel-node", podIP)
	own.ServiceAccount = "ztunnel"
	w.Store.Apply(workload.Update{RemovedWorkloads: []string{"web"}, Workloads: []*workload.Workload{own, proxytest.Workload("prometheus", clientIP)}})
	virtual := w.surfaces(t, surface.Metrics)
	virtual.Exclusive = true
	var ready atomic.Bool
	self, err := w.OpenSelf(t.Context(), SelfConfig{
		Workload: proxytest.Info(own), Sockets: socket.NewFactory(socket.Config{}), Surface: virtual, Ready: ready.Store,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := self.Serve(ctx); err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
	t.Cleanup(func() { cancel(); serving.Wait() })
	proxytest.Until(t, "readers can come", ready.Load)
	conn := proxytest.Dial(t, clientIP, self.ln.Addr())
	c, err := hbone.Client(t.Context(), conn, w.ca.Workload(t, clientID).ClientConfig([]spiffe.ID{own.Identity()}), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Abort(nil); <-c.Done() })
	s := stream(t, c, podIP+":15020")
	scrape(t, s, "/metrics")
	_ = s.CloseWrite()
	_ = proxytest.Ended(s)
	w.log.Wait(t, "INFO connection complete", "direction=inbound", "dst.workload=ztunnel-node", "dst.addr="+self.ln.Addr().String()+" ",
		"dst.hbone_addr="+podIP+":15020", "src.workload=prometheus", "src.identity="+clientID, "dst.identity="+own.Identity().String())
	for _, family := range []string{"istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"} {
		labels := connectiontest.Labels{"reporter": "destination", "destination_workload": "ztunnel-node-controller"}
		if got := metrics.Sum(t, family, labels); got != 1 {
			t.Errorf("%s = %d, want 1", family, got)
		}
	}
	for _, port := range []string{":15000", ":80"} {
		_, err := c.Open(t.Context(), &hbone.Request{Method: http.MethodConnect, Authority: podIP + port})
		if answer, ok := errors.AsType[*hbone.StatusError](err); !ok || answer.Code != http.StatusServiceUnavailable {
			t.Errorf("CONNECT %s = %v, want 503", port, err)
		}
	}
}
