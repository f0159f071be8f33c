package dashboards

import "ztunnel/telemetry/catalog"

// nodeGlance is what a ztunnel needs from others: the control plane, the CNI agent and the CA.
func nodeGlance() []Panel {
	missing := []Threshold{{0, Green}, {1, Red}}
	none := map[string]string{"0": "none"}
	lost := func(gauge string) string { return orZero(count("", of(gauge)+" == 0")) }
	return []Panel{
		&Stat{Frame: Frame{
			Title: "Without control plane", Unit: Count, Width: 4, Thresholds: missing,
			Description: "Processes without a stream to their control plane. What they know stays in force, but nothing new arrives.",
			Queries:     []Query{{Expr: lost(catalog.XDSConnected)}},
		}, Texts: none},
		&Stat{Frame: Frame{
			Title: "Rejected resources", Unit: Count, Width: 4, Thresholds: missing,
			Description: "Workloads, services and policies of the control plane that were rejected in the time shown. The log names each with its error.",
			Queries:     []Query{{Expr: orZero(sum("", increase(catalog.XDSRejected)))}},
		}, Texts: none},
		&Stat{Frame: Frame{
			Title: "Identities without certificate", Unit: Count, Width: 4, Thresholds: missing,
			Description: "Identities for which the CA gives no certificate. Their workloads cannot connect over HBONE.",
			Queries:     []Query{{Expr: sum("", of(catalog.Certs, `state="unavailable"`))}},
		}, Texts: none},
		&Stat{Frame: Frame{
			Title: "Without CNI agent", Unit: Count, Width: 4, Thresholds: missing,
			Description: "Processes in shared mode without a connection to the CNI agent of their node. No new pod of the mesh can start there.",
			Queries:     []Query{{Expr: lost(catalog.CNIConnected)}},
		}, Texts: none},
		&Stat{Frame: Frame{
			Title: "Pods served", Unit: Count, Width: 4, None: "dedicated mode",
			Description: "Pods that processes in shared mode serve.",
			Queries:     []Query{{Expr: sum("", of(catalog.ProxiesActive))}},
		}},
		&Stat{Frame: Frame{
			Title: "Pods pending", Unit: Count, Width: 4, None: "dedicated mode", Thresholds: missing,
			Description: "Pods that a process could not begin to serve. It tries again every few seconds; meanwhile it is not ready.",
			Queries:     []Query{{Expr: sum("", of(catalog.ProxiesPending))}},
		}, Texts: none},
	}
}

func controlPlane() Row {
	return Row{Title: "Control plane", Height: 7, Panels: []Panel{
		&Timeseries{Frame: Frame{
			Title: "Streams to the control plane", Unit: Count, Width: 6, None: "no control plane",
			Description: "Processes with a stream to the control plane, and all that should have one. A gap of a moment at the end of each stream, after about half an hour, is normal.",
			Queries: []Query{
				{Expr: sum("", of(catalog.XDSConnected)), Legend: "connected"},
				{Expr: count("", of(catalog.XDSConnected)), Legend: "all"},
			},
		}},
		&Timeseries{Stacked: true, Frame: Frame{
			Title: "Streams ended by reason", Unit: Count, Width: 6, None: "none",
			Description: "In the time of a point. Reconnect and Complete: the control plane or the network has ended a stream, as happens about every half an hour. " +
				"ConnectionError: none came about, so look at the network, TLS and the token. Error: it failed; the log tells why.",
			Queries: []Query{{Expr: sum("reason", "increase("+of(catalog.XDSTerminations)+"[$__rate_interval])"), Legend: "{{reason}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Age of the last message", Unit: Seconds, Width: 6, None: "no control plane",
			Description: "Time since the last message of a type, of the process that waits longest. More than the life of a stream (half an hour with istiod) for all types is a stream that is dead.",
			Queries:     []Query{{Expr: most("url", "time() - "+of(catalog.XDSLastMessage)), Legend: "{{url}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Resources in force", Unit: Count, Width: 6, None: "no control plane",
			Description: "Workloads and services (Address) and policies (Authorization) of the control plane, in the process that has most and in the one that has fewest. " +
				"All processes of a cluster know the same, unless they ask on demand: a lasting difference is a process that is out of date.",
			Queries: []Query{
				{Expr: most("url", of(catalog.XDSResources)), Legend: "{{url}}, most"},
				{Expr: least("url", of(catalog.XDSResources)), Legend: "{{url}}, fewest"},
			},
		}},
		&Timeseries{Frame: Frame{
			Title: "Bytes of messages", Unit: BytesPerSecond, Width: 6, None: "no messages",
			Description: "Resources that the control plane sends, by type. Each new stream brings everything again.",
			Queries:     []Query{{Expr: sum("url", rate(catalog.XDSMessageBytes)), Legend: "{{url}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Messages and rejections", Unit: PerSecond, Width: 6, None: "no messages",
			Description: "Messages by type, and those that were rejected, in whole or in part.",
			Queries: []Query{
				{Expr: sum("url", rate(catalog.XDSMessages)), Legend: "{{url}}"},
				{Expr: sum("", rate(catalog.XDSNacks)), Legend: "rejected"},
			},
		}},
		&Timeseries{Frame: Frame{
			Title: "Time to put a message into force (p99)", Unit: Seconds, Width: 6, None: "no messages",
			Description: "The time that 99 % of the messages stay below, from their arrival until connections are judged by them.",
			Queries:     []Query{{Expr: percentile99("url", catalog.XDSApplyDuration), Legend: "{{url}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Asked for on demand", Unit: PerSecond, Width: 6, None: "everything is sent unasked",
			Description: "With XDS_ON_DEMAND: addresses that connections needed, by what came of it. Those that are not cached wait for the control plane; timeout is a control plane that is slow or gone.",
			Queries:     []Query{{Expr: sum("result", rate(catalog.XDSDemands)), Legend: "{{result}}"}},
		}},
	}}
}

// revocation are the panels about revoked certificates.
func revocation() []Panel {
	return []Panel{
		&Timeseries{Frame: Frame{
			Title: "Revocation lists", Unit: Count, Width: 8, None: "no CRL_PATH",
			Description: "Processes by the state of their file of revocation lists. Invalid or missing: the lists loaded before stay in force, if there were any.",
			Queries:     []Query{{Expr: sum("state", of(catalog.CRLState)), Legend: "{{state}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Refused or cut as revoked", Unit: PerSecond, Width: 8, None: "no CRL_PATH",
			Description: "Tunnels that were refused, or cut while open, because a certificate of the peer is revoked.",
			Queries:     []Query{{Expr: sum("reporter", rate(catalog.CRLRejected)), Legend: "{{reporter}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Revoked certificates", Unit: Count, Width: 8, None: "no CRL_PATH",
			Description: "Certificates in the lists in force, in the process that has most and in the one that has fewest. A lasting difference is a process whose file is not kept up to date.",
			Queries: []Query{
				{Expr: most("", of(catalog.CRLRevoked)), Legend: "most"},
				{Expr: least("", of(catalog.CRLRevoked)), Legend: "fewest"},
			},
		}},
	}
}

func nodePods() Row {
	const none = "dedicated mode"
	return Row{Title: "Pods of the node", Height: 7, Panels: []Panel{
		&Timeseries{Stacked: true, Frame: Frame{
			Title: "Pods by ztunnel", Unit: Count, Width: 4, None: none,
			Description: "Pods served, by process. In a rollout of ztunnel two processes serve the pods of a node, until the old one has drained.",
			Queries:     []Query{{Expr: sum("pod", of(catalog.ProxiesActive)), Legend: "{{pod}}"}},
		}},
		&Timeseries{Stacked: true, Frame: Frame{
			Title: "Pending by ztunnel", Unit: Count, Width: 4, None: none,
			Description: "Pods whose listeners could not be opened. The log of the process names the error.",
			Queries:     []Query{{Expr: sum("pod", of(catalog.ProxiesPending)), Legend: "{{pod}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Longest wait", Unit: Seconds, Width: 4, None: none,
			Description: "How long the pod that is pending for longest has been so. Above a minute it does not solve itself.",
			Thresholds:  []Threshold{{0, Green}, {60, Red}},
			Queries:     []Query{{Expr: most("pod", of(catalog.InpodPendingOldest)), Legend: "{{pod}}"}},
		}},
		&Timeseries{Frame: Frame{
			Title: "Pods started and stopped", Unit: PerSecond, Width: 4, None: none,
			Description: "Pods that processes began to serve, and those they have ceased to serve.",
			Queries: []Query{
				{Expr: sum("", rate(catalog.ProxiesStarted)), Legend: "started"},
				{Expr: sum("", rate(catalog.ProxiesStopped)), Legend: "stopped"},
			},
		}},
		&Timeseries{Frame: Frame{
			Title: "Time to start a pod (p99)", Unit: Seconds, Width: 4, None: none,
			Description: "The time that 99 % of the attempts to open the listeners of a pod stay below. The start of the pod waits for it, the CNI agent for at most 5 s.",
			Queries:     []Query{{Expr: percentile99("", catalog.InpodStartDuration), Legend: "p99"}},
		}},
		&Timeseries{Stacked: true, Frame: Frame{
			Title: "Messages of the CNI agent", Unit: PerSecond, Width: 4, None: none,
			Description: "By type and result. A snapshot ends what the agent tells a new connection: many are connections that do not last.",
			Queries:     []Query{{Expr: sum("type, result", rate(catalog.InpodEvents)), Legend: "{{type}} {{result}}"}},
		}},
	}}
}
