package main

import (
	"fmt"
	"time"

	"sigs.k8s.io/yaml"

	"ztunnel/proxy/config"
	"ztunnel/proxy/hbone"
	"ztunnel/proxy/rbac"
	"ztunnel/telemetry"
	"ztunnel/telemetry/profiling"
)

// What follows turns the one configuration into those of the parts, none of
// which knows the others.

func (p *process) telemetryConfig() telemetry.Config {
	t, b := &p.cfg.Telemetry, buildInfo()
	headers := map[string]string{}
	for _, h := range t.OTLP.Headers {
		headers[h.Name] = h.Value.Reveal()
	}
	return telemetry.Config{
		Log: p.logs.Logger("telemetry"), IstioVersion: b.IstioVersion,
		Build: telemetry.Build{Version: b.Version, Revision: b.GitRevision, GoVersion: b.GoVersion, Crypto: b.CryptoProvider},
		Resource: telemetry.Resource{
			ServiceName: t.OTLP.ServiceName, Namespace: p.cfg.PodNamespace, Node: p.cfg.NodeName, Pod: p.cfg.PodName,
			Cluster: p.cfg.ClusterID, More: t.OTLP.ResourceAttributes,
		},
		OTLP: telemetry.OTLP{
			Enabled: t.OTLP.Enabled, Protocol: t.OTLP.Protocol, Endpoint: t.OTLP.Endpoint, Headers: headers,
			Timeout: t.OTLP.Timeout, Interval: t.OTLP.Interval, CollectTimeout: t.OTLP.CollectTimeout,
			Certificate: t.OTLP.Certificate, Insecure: t.OTLP.Insecure, Gzip: t.OTLP.Gzip,
		},
	}
}

func (p *process) profilingConfig() profiling.Config {
	c := &p.cfg.Telemetry.Pyroscope
	return profiling.Config{
		Log: p.logs.Logger("telemetry"), ServerAddress: c.ServerAddress, ApplicationName: c.ApplicationName,
		Tags:          map[string]string{"node": p.cfg.NodeName, "pod": p.cfg.PodName, "version": buildInfo().Version},
		BasicAuthUser: c.BasicAuthUser, BasicAuthPassword: c.BasicAuthPassword.Reveal(),
		TenantID: c.TenantID, UploadRate: c.UploadRate,
	}
}

func (p *process) hboneConfig(handshake time.Duration, headerList uint32, scope string) *hbone.Config {
	b := p.cfg.Budgets
	return &hbone.Config{
		StreamWindow: p.cfg.StreamWindow, ConnectionWindow: p.cfg.ConnectionWindow, MaxFrameSize: p.cfg.FrameSize,
		CryptoTLS:        p.cfg.CryptoTLS,
		HandshakeTimeout: handshake, ConnectTimeout: p.cfg.ConnectResponseTimeout, HeaderTimeout: p.cfg.RequestHeadersTimeout,
		AssumedStreams: uint32(p.cfg.PoolMaxStreams),
		Limits: hbone.Limits{
			ControlFrames: b.ControlFrames, Resets: b.Resets, PendingResets: b.PendingResets,
			Continuations: b.ContinuationFrames, Period: b.Window, HeaderList: headerList,
		},
		Metrics: p.hboneMetrics, Log: p.logs.Logger(scope),
	}
}

// readers are the principals of TELEMETRY_READERS.
func (p *process) readers() (rbac.Principals, error) {
	readers, err := rbac.ParsePrincipals(p.cfg.Telemetry.Readers)
	if err != nil {
		return readers, fmt.Errorf("TELEMETRY_READERS: %w", err)
	}
	return readers, nil
}

// configText is the configuration as the log shows it: YAML, without secrets.
func configText(cfg *config.Config) string {
	text, err := yaml.Marshal(cfg.Dump())
	if err != nil {
		return "cannot be shown: " + err.Error()
	}
	return string(text)
}
