package proxy_test

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/xds"
	"ztunnel/proxy/xds/xdstest"
)

// ignore is a handler that accepts everything.
type ignore struct{}

func (ignore) Handle(b *xds.Batch) {
	for range b.Resources() {
	}
}

// xds has had a stream to a control plane, on which something was asked for on demand.
func (a *all) xds() {
	const url = "type.googleapis.com/example"
	plane := xdstest.New(a.t)
	client := xds.New(xds.Config{
		Channel: &xdstest.Channel{Server: plane}, Address: "https://istiod:15012", Types: []xds.Type{{URL: url, OnDemand: true, Handler: ignore{}}},
	})
	a.register("xds", client.Register)
	a.run(client.Run)
	st := plane.Accept(a.t)
	st.Recv(a.t)
	var asking sync.WaitGroup
	asking.Go(func() { client.Demand(context.Background(), url, "/10.0.0.1") })
	st.Recv(a.t)
	st.Send(a.t, &discoveryapi.DeltaDiscoveryResponse{TypeUrl: url, RemovedResources: []string{"/10.0.0.1"}})
	asking.Wait()
	st.End(status.Error(codes.Canceled, "bye"))
	plane.Accept(a.t)
}
