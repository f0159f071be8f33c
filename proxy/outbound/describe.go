package outbound

import (
	"net/http"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/live"
	"ztunnel/proxy/route"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// baggage is what the pod tells of itself, by one record of its workload.
type baggage struct {
	of     *workload.Workload
	header hbone.Field
}

// about is the baggage header for the pod's workload.
func (c *outgoing) about() hbone.Field {
	b := c.baggage.Load()
	if b == nil || b.of != c.source {
		b = &baggage{of: c.source, header: hbone.Field{Name: hbone.HeaderBaggage, Value: claims(c.source)}}
		c.baggage.Store(b)
	}
	return b.header
}

// claims is what the proxy of a workload tells of it to the other end.
func claims(w *workload.Workload) string {
	b := hbone.Baggage{
		Cluster: w.ClusterID, Namespace: w.Namespace, WorkloadType: w.WorkloadType, Workload: w.WorkloadName,
		Service: w.CanonicalName, Version: w.CanonicalRevision, Region: w.Locality.Region, Zone: w.Locality.Zone,
	}
	return b.String()
}

// request is the CONNECT for the connection. The inner one of double HBONE
// also says which network it comes from.
func (c *outgoing) request(inner bool) *hbone.Request {
	host := ""
	if c.route.Service != nil {
		host = c.route.Service.Hostname
	}
	header := make(hbone.Header, 0, 4)
	header = append(header, c.about(),
		hbone.Field{Name: hbone.HeaderForwarded, Value: hbone.Forwarded(c.src, host)},
		hbone.Field{Name: hbone.HeaderTraceparent, Value: c.trace.String()})
	if inner {
		header = append(header, hbone.Field{Name: hbone.HeaderForwardedNetwork, Value: c.Network})
	}
	return &hbone.Request{Method: http.MethodConnect, Authority: c.route.Authority, Header: header}
}

// protocol is what the config dump calls the kind of the route.
func (c *outgoing) protocol() live.Protocol {
	switch c.route.Kind {
	case route.HBONE:
		return live.HBONE
	case route.DoubleHBONE:
		return live.DoubleHBONE
	default:
		return live.TCP
	}
}

// details are what is known of the connection when it opens. It is small enough
// to be inlined, so that they need not be allocated.
func (c *outgoing) details() *connection.Details {
	d := new(connection.Details)
	c.describe(d)
	return d
}

func (c *outgoing) describe(d *connection.Details) {
	*d = connection.Details{
		Reporter: connection.Source, Start: c.start,
		Src: c.src, Dst: c.route.Dial, HBONEAddr: c.route.Authority,
		Source: c.source.Telemetry(), Destination: c.route.Workload.Telemetry(), Service: c.route.Service.Telemetry(),
	}
	switch c.route.Kind {
	case route.HBONE:
		d.Protocol, d.MutualTLS = connection.HBONE, true
	case route.DoubleHBONE:
		d.Protocol, d.MutualTLS = connection.DoubleHBONE, true
	default:
		return
	}
	d.SourcePrincipal = d.Source.Principal
}

// farDetails are the details of a connection through a gateway: the far end
// has proven who it is, and says what it is. An answer that says nothing makes
// it unknown, and one that cannot be read leaves the gateway in its place, as in
// the reference.
func (c *outgoing) farDetails(tunnel *hbone.ClientConn, inner *hbone.Stream) *connection.Details {
	d := c.details()
	said, ok := hbone.ParseBaggage(inner.ResponseHeader())
	if !ok {
		return d
	}
	d.Destination = claimed(said)
	if id, ok := identity.PeerID(tunnel.TLS()); ok {
		d.DestinationPrincipal = id.String()
		d.DestinationIdentity = d.DestinationPrincipal
	}
	return d
}

// claimed is who the far end says it is. It is shown in labels and the log, and
// decides nothing.
func claimed(b hbone.Baggage) *connection.Workload {
	return &connection.Workload{
		Pod: b.Workload, Name: b.Workload, App: b.Workload, Namespace: b.Namespace,
		CanonicalName: b.Service, CanonicalRevision: b.Version,
		Cluster: b.Cluster, Region: b.Region, Zone: b.Zone,
	}
}
