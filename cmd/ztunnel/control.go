package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"ztunnel/proxy/config"
	"ztunnel/proxy/discovery"
	"ztunnel/proxy/istiod"
	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/xds"
	"ztunnel/telemetry/logging"
)

// maxXDSMessage is the largest response that is taken, in bytes: one can hold
// the whole cluster.
const maxXDSMessage = 200 << 20

// How long changes may wait to be applied together when there are many. On
// demand a connection may wait for one of them.
const (
	// gatherTime is how long istiod waits itself, as a rule, before it sends what
	// changed (PILOT_DEBOUNCE_AFTER): with it nothing ever waits here.
	gatherTime         = 100 * time.Millisecond
	gatherTimeOnDemand = 10 * time.Millisecond
)

// makeDiscovery makes the client of the control plane, where there is one.
func (p *process) makeDiscovery(context.Context) error {
	if p.cfg.XDSAddress == "" {
		return nil
	}
	to := p.channelConfig(p.cfg.XDSAddress, p.cfg.XDSRootCA, p.cfg.AltXDSHostname, p.cfg.XDSHeaders)
	to.Gather = gatherTime
	if p.cfg.XDSOnDemand {
		to.Gather = gatherTimeOnDemand
	}
	channel, err := istiod.New(to)
	if err != nil {
		return fmt.Errorf("XDS_ADDRESS: %w", err)
	}
	c := discovery.Config{
		Channel: channel, Address: p.cfg.XDSAddress, OnDemand: p.cfg.XDSOnDemand,
		Node: xds.NodeConfig{
			PodName: p.cfg.PodName, PodNamespace: p.cfg.PodNamespace, InstanceIP: p.cfg.InstanceIP, NodeName: p.cfg.NodeName,
			Metadata: p.cfg.ProxyMetadata, MetadataJSON: p.cfg.ProxyMetadataJSON,
		},
		Store: p.store, Policies: p.policies, NodeName: p.cfg.NodeName,
		Log: p.logs.Logger("xds::client"), StateLog: p.logs.Logger("state"),
		StreamLog: func(id int) *slog.Logger {
			return logging.WithSpan(p.logs.Logger("xds::client"), "xds", slog.Int("id", id))
		},
	}
	if p.cfg.Mode == config.Shared {
		c.Prefetch, c.Forget = p.prefetch, p.certificates.Forget
	}
	p.discovery, err = discovery.New(c)
	if err != nil {
		return err
	}
	return p.discovery.Register(p.telemetry.Meter("ztunnel/proxy/xds"))
}

// prefetch has the certificate of a workload at hand before it is needed.
func (p *process) prefetch(id spiffe.ID) {
	if err := p.certificates.Prefetch(id); err != nil {
		p.logs.Logger("identity").Error(fmt.Sprintf("unable to prefetch cert for %q, skipping, %v", id, err))
	}
}

// caChannel is how the certificate authority is reached.
func (p *process) caChannel() (*istiod.Channel, error) {
	c, err := istiod.New(p.channelConfig(p.cfg.CAAddress, p.cfg.CARootCA, p.cfg.AltCAHostname, p.cfg.CAHeaders))
	if err != nil {
		return nil, fmt.Errorf("CA_ADDRESS: %w", err)
	}
	return c, nil
}

func (p *process) channelConfig(address string, root config.RootCA, alt string, headers []config.Header) istiod.Config {
	c := istiod.Config{
		Address: address, AltHostname: alt, ClusterID: p.cfg.ClusterID, MaxMessage: maxXDSMessage,
		Token: istiod.Token{File: p.cfg.Auth.Path, Literal: p.cfg.Auth.Literal.Reveal()},
		TLS12: p.cfg.TLS12, PQC: p.cfg.PQC, Log: p.logs.Logger("tls"),
	}
	switch root.Kind {
	case config.RootFile:
		c.Roots.File = root.Path
	case config.RootSystem:
		c.Roots.System = true
	case config.RootInline:
		c.Roots.PEM = []byte(root.PEM)
	}
	for _, h := range headers {
		c.Headers = append(c.Headers, istiod.Header{Name: h.Name, Value: h.Value.Reveal()})
	}
	return c
}
