package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"ztunnel/proxy"
	"ztunnel/proxy/config"
	"ztunnel/proxy/dns"
	"ztunnel/proxy/hbone"
	"ztunnel/proxy/inpod"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/logging"
)

// makeDataPath makes what carries traffic, and binds what listens outside of
// pods.
func (p *process) makeDataPath(ctx context.Context) error {
	p.hboneMetrics = new(hbone.Metrics)
	hosts, err := dns.LoadHosts("/etc/hosts")
	if err != nil {
		p.log.Warn("names of hosts are unknown", "error", err)
	}
	resolver := dns.NewResolver(dns.ResolverConfig{
		Upstreams: proxy.Upstreams(p.cfg, hosts), Search: p.cfg.Resolver.Search, NDots: int(p.cfg.Resolver.NDots),
	})
	p.node = &proxy.Node{
		Config: p.cfg, Store: p.store, Policies: p.policies, Certificates: p.certificates, Revocations: p.crl, Recorder: p.recorder,
		ServerHBONE: p.hboneConfig(p.cfg.InboundHandshakeTimeout, p.cfg.Budgets.HeaderListBytes, "proxy::inbound"),
		ClientHBONE: p.hboneConfig(p.cfg.OutboundHandshakeTimeout, 0, "proxy::pool"), /* 0: what the reference announces */
		Resolver:    resolver, Hosts: hosts, Log: p.logs.Logger, Span: logging.WithSpan,
		PodLog: func(scope, span, pod string) *slog.Logger {
			return logging.WithSpan(p.logs.Logger(scope), span, slog.String("wl", pod))
		},
	}
	p.node.ServerHBONE.Go = p.node.Go
	if p.cfg.XDSOnDemand && p.discovery != nil {
		p.node.Demand = p.discovery
	}
	open := p.openDedicated
	if p.cfg.Mode == config.Shared {
		open = p.openShared
	}
	if err := open(ctx); err != nil {
		return err
	}
	return errors.Join(
		p.node.Register(p.telemetry.Meter("ztunnel/proxy")),
		p.hboneMetrics.Register(p.telemetry.Meter("ztunnel/proxy/hbone")),
		resolver.Register(p.telemetry.Meter("ztunnel/proxy/dns")),
	)
}

// openDedicated binds the listeners of the one pod.
func (p *process) openDedicated(ctx context.Context) error {
	sockets := socket.NewFactory(proxy.SocketConfig(p.cfg, p.logs.Logger("proxy")))
	if p.cfg.EnableProxy {
		done := p.readiness.Task("proxy")
		virtual, err := p.virtualPorts()
		if err != nil {
			return err
		}
		virtual.Shadowed = p.shadowed
		c := proxy.PodConfig{Workload: workload.Info(*p.cfg.Workload), Sockets: sockets, Surface: virtual}
		if p.cfg.DNSProxy {
			c.Resolve = p.lookup
		}
		p.pod, err = p.node.OpenPod(ctx, c)
		if err != nil {
			return err
		}
		done()
	}
	if !p.cfg.DNSProxy {
		return nil
	}
	done := p.readiness.Task("dns proxy")
	var err error
	p.dns, err = dns.Listen(ctx, p.node.DNSConfig(workload.Info(*p.cfg.Workload), p.cfg.DNSProxyAddr.Addrs(), sockets, p.logs.Logger("dns::server")))
	if err != nil {
		return err
	}
	done()
	return p.dns.Register(p.telemetry.Meter("ztunnel/proxy/dns"))
}

// lookup asks the process's own DNS proxy, which is there before anything is served.
func (p *process) lookup(ctx context.Context, host string, ipv6 bool) ([]netip.Addr, error) {
	return p.dns.Lookup(ctx, host, ipv6)
}

// openShared makes what serves the pods that the CNI agent will name, and the
// listener of the process itself, where its own pod is known.
func (p *process) openShared(ctx context.Context) error {
	if err := inpod.CheckCapabilities(p.cfg.PacketMark); err != nil {
		return err
	}
	p.log.Info("shared proxy mode - in-pod mode enabled")
	p.podsReady = p.readiness.Task("workload proxy manager")
	p.pods = proxy.NewPods(p.node)
	p.inpod = inpod.New(inpod.Config{
		Path: p.cfg.InpodUDS, Pods: p.pods, Log: p.logs.Logger("inpod::workloadmanager"), Ready: p.setPodsReady,
	})
	if own := p.cfg.OwnWorkload(); own != nil && p.cfg.EnableProxy {
		virtual, err := p.virtualPorts()
		if err != nil {
			return err
		}
		virtual.Exclusive = true
		p.logs.Logger("proxyfactory").Info(fmt.Sprintf("creating ztunnel self-proxy listener with identity: Spiffe { trust_domain: %q, namespace: %q, service_account: %q }",
			p.cfg.TrustDomain, own.Namespace, own.ServiceAccount))
		sockets := proxy.SocketConfig(p.cfg, p.logs.Logger("proxy"))
		sockets.Mark = 0 // what we dial for ourselves is nobody's traffic
		p.self, err = p.node.OpenSelf(ctx, proxy.SelfConfig{
			Workload: workload.Info(*own), Sockets: socket.NewFactory(sockets), Surface: virtual, Ready: p.surface.SetReady,
		})
		if err != nil {
			return err
		}
		p.log.Info("Starting ztunnel inbound listener task")
	}
	p.admin.Section("workloadState", p.workloadState)
	return errors.Join(
		p.inpod.Register(p.telemetry.Meter("ztunnel/proxy/inpod")),
		p.pods.Register(p.telemetry.Meter("ztunnel/proxy/dns")),
	)
}

// setPodsReady withdraws and grants readiness with the agent's pods.
func (p *process) setPodsReady(ready bool) {
	if ready {
		p.podsReady()
		return
	}
	p.podsReady = p.readiness.Task("workload proxy manager")
}

// workloadState is the pods as the config dump shows them. The process itself
// is among them once the control plane knows it as a workload of the mesh.
func (p *process) workloadState() (any, error) {
	states := p.inpod.Dump()
	if p.self != nil && p.store.Local(p.self.Workload) != nil {
		states[p.cfg.PodName] = inpod.State{Info: inpod.Info(p.self.Workload), State: inpod.Up, Connections: p.self.Connections()}
	}
	return states, nil
}

// virtualPorts puts the telemetry surface behind policies.
func (p *process) virtualPorts() (*proxy.Surface, error) {
	s := &proxy.Surface{Server: p.surface, Log: p.logs.Logger(logging.ScopeTelemetry)}
	if len(p.cfg.Telemetry.Readers) > 0 {
		readers, err := p.readers()
		if err != nil {
			return nil, err
		}
		s.Readers = &readers
	}
	return s, nil
}

// shadowed reports whether an application has the port of a surface. The plain
// listener of the metrics is no application.
func (p *process) shadowed(port uint16) bool {
	own := p.surface.HasPlaintext() && slices.ContainsFunc(p.cfg.StatsAddr.Addrs(), func(a netip.AddrPort) bool { return a.Port() == port })
	return !own && proxy.Listens(port)
}
