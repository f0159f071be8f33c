package interop

import (
	"maps"
	"net/netip"
)

// originalDst is the listener filter that lets a connection without a socket of
// its own have an original destination, and the prefix of what it reads.
const originalDst = "envoy.filters.listener.original_dst"

// typed is a message with its type, as extensions are configured.
func typed(name string, fields message) message {
	m := message{"@type": "type.googleapis.com/" + name}
	maps.Copy(m, fields)
	return m
}

// filter is an extension with its name and configuration.
func filter(name, kind string, fields message) message {
	return message{"name": name, "typed_config": typed(kind, fields)}
}

func file(path string) message { return message{"filename": path} }

// text is a format string.
func text(format string) message {
	return message{"text_format_source": message{"inline_string": format}}
}

func socket(a netip.AddrPort) message {
	return message{"socket_address": message{"address": a.Addr().String(), "port_value": a.Port()}}
}

func prefix(a netip.Addr) message {
	return message{"address_prefix": a.String(), "prefix_len": a.BitLen()}
}

// assignment is the one endpoint of a cluster.
func assignment(name string, host message) message {
	return message{"cluster_name": name, "endpoints": list{message{"lb_endpoints": list{host}}}}
}

// plainCluster leads to an address, as bytes.
func plainCluster(name string, to netip.AddrPort) message {
	return message{
		"name": name, "type": "STATIC", "connect_timeout": "5s",
		"load_assignment": assignment(name, message{"endpoint": message{"address": socket(to)}}),
	}
}

// internalCluster leads into a listener of the same Envoy. Of what the client's
// connection had, what is shared with upstreams comes along; so does the
// address, if there is one, in place of the original destination.
func internalCluster(name, listener string, address *netip.AddrPort) message {
	to := message{"server_listener_name": listener}
	host := message{"endpoint": message{"address": message{"envoy_internal_address": to}}}
	transport := message{"transport_socket": filter("envoy.transport_sockets.raw_buffer", "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", nil)}
	if address != nil {
		to["endpoint_id"] = address.String() // tells it from other hosts behind the same listener
		host["metadata"] = message{"filter_metadata": message{originalDst: message{"local": address.String()}}}
		transport["passthrough_metadata"] = list{message{"kind": message{"host": message{}}, "name": originalDst}}
	}
	return message{
		"name": name, "type": "STATIC",
		"load_assignment": assignment(name, host),
		"transport_socket": filter("envoy.transport_sockets.internal_upstream",
			"envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport", transport),
	}
}

// internalListener takes connections of this Envoy and decides by where they
// seem to go; what no chain matches goes to the default.
func internalListener(name string, chains list, otherwise message) message {
	l := message{
		"name": name, "internal_listener": message{},
		"listener_filters":     list{filter(originalDst, "envoy.extensions.filters.listener.original_dst.v3.OriginalDst", nil)},
		"default_filter_chain": message{"filters": list{otherwise}},
	}
	if len(chains) > 0 {
		l["filter_chains"] = chains
	}
	return l
}

// tcpProxy passes bytes on to a cluster, in a tunnel if one is described.
func tcpProxy(cluster string, tunnel message) message {
	fields := message{"stat_prefix": cluster, "cluster": cluster}
	if tunnel != nil {
		fields["tunneling_config"] = tunnel
		fields["access_log"] = accessLog("originate authority=%DOWNSTREAM_LOCAL_ADDRESS% server=%UPSTREAM_PEER_URI_SAN% to=%UPSTREAM_HOST% " +
			"received=%BYTES_RECEIVED% sent=%BYTES_SENT% flags=%RESPONSE_FLAGS%")
	}
	return filter("envoy.filters.network.tcp_proxy", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", fields)
}

// connectRoute takes CONNECT for an authority, and hands what it carries to a
// cluster as bytes.
func connectRoute(authority, cluster string) message {
	return message{
		"name": cluster, "domains": list{authority},
		"routes": list{message{
			"match": message{"connect_matcher": message{}},
			"route": message{
				"cluster": cluster, "timeout": "0s",
				"upgrade_configs": list{message{"upgrade_type": "CONNECT", "connect_config": message{}}},
			},
		}},
	}
}

// http2 allows CONNECT, with windows like ztunnel's. Envoy's own, of 16 MiB for a
// stream and 24 MiB for all, let one connection that nobody reads hold up all
// others: the rest is less than what Envoy waits for before it opens the window
// again, half of it.
func http2() message {
	return message{"allow_connect": true, "initial_stream_window_size": 4 << 20, "initial_connection_window_size": 16 << 20}
}

func router() message {
	return filter("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", nil)
}

func accessLog(line string) list {
	return list{filter("envoy.access_loggers.stdout", "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
		message{"log_format": text(line + "\n")})}
}
