package interop

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
	"ztunnel/proxy/spiffe"
)

// message is a message of Envoy's API, in the JSON form of protobuf.
type message = map[string]any

type list = []any

// files are where an Envoy finds its own certificate and the mesh's root.
type files struct {
	certificate, key, root string
}

// adminPort is where Envoy's admin interface listens, on the loopback address.
const adminPort = mesh.AdminPort

// Names of listeners and clusters. Those of the waypoint are istiod's too.
const (
	connectTerminate = "connect_terminate" // takes HBONE
	mainInternal     = "main_internal"     // decides by the address of the request
	connectOriginate = "connect_originate" // makes HBONE
)

// waypoint is what the Envoy of a waypoint is told.
type waypoint struct {
	files
	listen netip.Addr
	// services lead to endpoints.
	services []serviceRoute
	// servers are the identities that the endpoints may have.
	servers []spiffe.ID
	// maxRequests, if not 0, is how many requests a tunnel may carry; then it is
	// closed in order, at once: a GOAWAY for what is to come, and a second one
	// that disowns what has come meanwhile.
	maxRequests int
}

// serviceRoute is a service with one endpoint.
type serviceRoute struct {
	name            string
	vip, toEndpoint netip.AddrPort
}

// config is the bootstrap configuration of a waypoint. A CONNECT is taken by the
// first listener, which hands the stream to the second with the authority as
// its destination, as if somebody had connected there. The second finds the
// service, and from there an endpoint; an address of no service stays as it is.
// It hands the bytes to the third with that as their destination, which opens a
// CONNECT for it, on a tunnel to port 15008 of the same address.
func (w waypoint) config() ([]byte, error) {
	clusters := list{internalCluster("to_main", mainInternal, nil), internalCluster("encap", connectOriginate, nil), w.originate()}
	chains := list{}
	for _, s := range w.services {
		// Metadata of the host, which the transport carries on, is its address.
		clusters = append(clusters, internalCluster(s.name, connectOriginate, &s.toEndpoint))
		chains = append(chains, message{
			"filter_chain_match": message{"prefix_ranges": list{prefix(s.vip.Addr())}, "destination_port": s.vip.Port()},
			"filters":            list{tcpProxy(s.name, nil)},
		})
	}
	route := connectRoute("*", "to_main")
	filters := list{
		// TRANSITIVE: for an address of no service it is the third listener's too.
		filter("envoy.filters.http.set_filter_state", "envoy.extensions.filters.http.set_filter_state.v3.Config", message{
			"on_request_headers": list{message{
				"object_key": originalDst + ".local_ip", "shared_with_upstream": "TRANSITIVE",
				"format_string": text("%REQ(:AUTHORITY)%"),
			}},
		}),
		router(),
	}
	return bootstrap(
		list{
			w.terminate(w.listen, filters, list{route}, w.maxRequests),
			internalListener(mainInternal, chains, tcpProxy("encap", nil)),
			internalListener(connectOriginate, nil, tcpProxy(connectOriginate, message{"hostname": "%DOWNSTREAM_LOCAL_ADDRESS%"})),
		},
		clusters,
	)
}

// originate is the cluster of all tunnels to servers: the address is that which
// the connection seems to go to, the port that of HBONE.
func (w waypoint) originate() message {
	var sans list
	for _, id := range w.servers {
		sans = append(sans, message{"san_type": "URI", "matcher": message{"exact": id.String()}})
	}
	return message{
		"name": connectOriginate, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "5s",
		"original_dst_lb_config": message{"upstream_port_override": mesh.HBONEPort},
		"transport_socket": message{
			"name":         "envoy.transport_sockets.tls",
			"typed_config": typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", message{"common_tls_context": w.tls(sans)}),
		},
		"typed_extension_protocol_options": message{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed("envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				message{"explicit_http_config": message{"http2_protocol_options": http2()}}),
		},
	}
}

// sandwich is what the Envoy of a waypoint is told whose own ztunnel takes and
// makes HBONE for it.
type sandwich struct {
	listen   netip.Addr // loopback: from there ztunnel comes
	services []serviceRoute
}

// config is the bootstrap configuration of such a waypoint. What arrives begins
// with a PROXY header, of the client, its destination and, in a TLV, its
// identity. What leaves is plain TCP.
func (s sandwich) config() ([]byte, error) {
	chains, clusters := list{}, list{}
	for _, r := range s.services {
		proxy := tcpProxy(r.name, nil)
		proxy["typed_config"].(message)["access_log"] = accessLog("sandwich to=%DOWNSTREAM_LOCAL_ADDRESS% from=%DOWNSTREAM_REMOTE_ADDRESS% " +
			"client=%DYNAMIC_METADATA(" + proxyHeader + ":client)% received=%BYTES_RECEIVED% sent=%BYTES_SENT% flags=%RESPONSE_FLAGS%")
		chains = append(chains, message{
			"filter_chain_match": message{"prefix_ranges": list{prefix(r.vip.Addr())}, "destination_port": r.vip.Port()}, "filters": list{proxy},
		})
		clusters = append(clusters, plainCluster(r.name, r.toEndpoint))
	}
	header := message{"rules": list{message{"tlv_type": identityTLV, "on_tlv_present": message{"key": "client"}}}}
	return bootstrap(list{message{
		"name": "sandwich", "address": socket(netip.AddrPortFrom(s.listen, sandwichPort)), "filter_chains": chains,
		"listener_filters": list{filter(proxyHeader, "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol", header)},
	}}, clusters)
}

const (
	// sandwichPort is where Envoy takes connections with a PROXY header.
	sandwichPort = 15088
	// identityTLV is the type of the TLV with the client's identity.
	identityTLV = 0xD0

	proxyHeader = "envoy.filters.listener.proxy_protocol"
)

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// gateway is what the Envoy of an east-west gateway is told.
type gateway struct {
	files
	listen   netip.Addr
	services []gatewayRoute
}

// gatewayRoute says which pod serves an authority.
type gatewayRoute struct {
	name      string
	authority string // hostname:port
	pod       netip.Addr
}

// config is the bootstrap configuration of an east-west gateway. What a CONNECT
// carries is a tunnel to the pod, which the gateway cannot look into: it passes
// the bytes on to port 15008 of the pod.
func (g gateway) config() ([]byte, error) {
	routes, clusters := list{}, list{}
	for _, s := range g.services {
		routes = append(routes, connectRoute(s.authority, s.name))
		clusters = append(clusters, plainCluster(s.name, netip.AddrPortFrom(s.pod, mesh.HBONEPort)))
	}
	return bootstrap(list{g.terminate(g.listen, list{router()}, routes, 0)}, clusters)
}

// terminate is the listener that takes CONNECT over mutual TLS.
func (f files) terminate(listen netip.Addr, filters, hosts list, maxRequests int) message {
	manager := message{
		"stat_prefix": connectTerminate, "codec_type": "HTTP2", "http_filters": filters,
		"http2_protocol_options": http2(),
		"upgrade_configs":        list{message{"upgrade_type": "CONNECT"}},
		"route_config":           message{"virtual_hosts": hosts},
		"access_log": accessLog("tunnel authority=%REQ(:AUTHORITY)% code=%RESPONSE_CODE% client=%DOWNSTREAM_PEER_URI_SAN% " +
			"from=%DOWNSTREAM_REMOTE_ADDRESS% received=%BYTES_RECEIVED% sent=%BYTES_SENT% flags=%RESPONSE_FLAGS%"),
	}
	if maxRequests > 0 {
		manager["drain_timeout"] = "0s"
		manager["common_http_protocol_options"] = message{"max_requests_per_connection": maxRequests}
	}
	anybody := list{message{"san_type": "URI", "matcher": message{"prefix": "spiffe://" + cluster.TrustDomain + "/"}}}
	return message{
		"name": connectTerminate, "address": socket(netip.AddrPortFrom(listen, mesh.HBONEPort)),
		"filter_chains": list{message{
			"transport_socket": message{
				"name": "envoy.transport_sockets.tls",
				"typed_config": typed("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", message{
					"require_client_certificate": true, "common_tls_context": f.tls(anybody),
				}),
			},
			"filters": list{filter("envoy.filters.network.http_connection_manager",
				"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", manager)},
		}},
	}
}

// tls is what both sides of a tunnel need: TLS 1.3, HTTP/2, a certificate, and
// one of the peer with the mesh's root and one of the given names.
func (f files) tls(sans list) message {
	return message{
		"alpn_protocols":   list{"h2"},
		"tls_params":       message{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
		"tls_certificates": list{message{"certificate_chain": file(f.certificate), "private_key": file(f.key)}},
		"validation_context": message{
			"trusted_ca": file(f.root), "match_typed_subject_alt_names": sans,
		},
	}
}

// bootstrap is the configuration as a file has it.
func bootstrap(listeners, clusters list) ([]byte, error) {
	content, err := json.MarshalIndent(message{
		"admin":                message{"address": socket(netip.AddrPortFrom(loopback, adminPort))},
		"bootstrap_extensions": list{filter("envoy.bootstrap.internal_listener", "envoy.extensions.bootstrap.internal_listener.v3.InternalListener", nil)},
		"static_resources":     message{"listeners": listeners, "clusters": clusters},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode Envoy's configuration: %w", err)
	}
	return append(content, '\n'), nil
}
