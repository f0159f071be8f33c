package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"ztunnel/proxy/config"
	"ztunnel/proxy/dns"
	"ztunnel/proxy/inpod"
	"ztunnel/proxy/live"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/workload"
)

// Pods is the pods of a node in shared mode: it makes a proxy for each in the pod's network namespace. It implements
// [inpod.PodSet]. A pod that has nothing to do costs one goroutine for each of its listeners and nothing else that waits.
type Pods struct {
	node    *Node
	queries dns.Metrics
}

// NewPods returns an empty set. The node's fields must be set.
func NewPods(n *Node) *Pods { return &Pods{node: n} }

// Start opens the listeners of a pod and begins to serve it. All of its sockets live in the namespace netns and have the
// node's mark. If one cannot be opened, nothing is left open and netns stays the caller's.
func (ps *Pods) Start(ctx context.Context, uid string, info inpod.Info, netns *os.File) (inpod.Running, error) {
	n, name := ps.node, info.Namespace+"/"+info.Name
	sockets := socket.NewFactory(ps.sockets(netns, n.podLog("proxy", name)("socket")))
	p := &servedPod{node: n, netns: netns, done: make(chan struct{})}
	var err error
	if n.Config.DNSProxy {
		if p.dns, p.asked, err = ps.listenDNS(ctx, workload.Info(info), sockets, n.podLog("dns_proxy", name)("dns::server")); err != nil {
			return nil, err
		}
	}
	if n.Config.EnableProxy {
		c := PodConfig{Workload: workload.Info(info), Sockets: sockets, Log: n.podLog("proxy", name)}
		if p.dns != nil {
			c.Resolve = p.dns.Lookup
		}
		p.pod, err = n.OpenPod(ctx, c)
		if err != nil {
			return nil, errors.Join(err, p.closeDNS())
		}
	}
	p.log = n.podLog("proxy", name)("proxy")
	p.begin()
	return p, nil
}

// sockets says how the sockets of a pod are made.
func (ps *Pods) sockets(netns *os.File, log *slog.Logger) socket.Config {
	c := SocketConfig(ps.node.Config, log)
	c.ReusePort, c.NetNS = ps.node.Config.InpodPortReuse, netns
	return c
}

// SocketConfig says how sockets are made in the process's own namespace.
func SocketConfig(c *config.Config, log *slog.Logger) socket.Config {
	return socket.Config{
		Mark: c.PacketMark, Log: log,
		Keepalive: socket.Keepalive{
			Enabled: c.Keepalive.Enabled, Time: c.Keepalive.Time, Interval: c.Keepalive.Interval,
			Retries: int(c.Keepalive.Retries), UserTimeout: c.Keepalive.UserTimeout,
		},
	}
}

// listenDNS opens the DNS proxy of a pod, at the loopback addresses that the pod has. Which those are is found out by trying: to ask
// the kernel costs as much as several sockets. It also returns the sockets where questions arrive.
func (ps *Pods) listenDNS(ctx context.Context, pod workload.Info, sockets *socket.Factory, log *slog.Logger) (server *dns.Server, asked []syscall.Conn, err error) {
	c := ps.node.Config
	where := c.DNSProxyAddr
	where.IPv6 = c.IPv6
	err = sockets.Visit(func(in *socket.Factory) (err error) {
		d := ps.node.DNSConfig(pod, where.Addrs(), sockets, log)
		d.Metrics = &ps.queries
		d.ListenUDP = func(ctx context.Context, addr netip.AddrPort) (*net.UDPConn, error) {
			c, err := in.ListenPacket(ctx, addr)
			if err == nil {
				asked = append(asked, c)
			}
			return c, err
		}
		d.ListenTCP = func(ctx context.Context, addr netip.AddrPort) (*net.TCPListener, error) {
			transparent := false
			ln, _, err := in.Listen(ctx, addr, &transparent)
			if err == nil {
				asked = append(asked, ln)
			}
			return ln, err
		}
		d.Absent = func(addr netip.AddrPort) bool {
			if addr.Addr() != netip.IPv6Loopback() {
				return false
			}
			has, err := in.LoopbackIPv6()
			if err != nil {
				log.Warn(err.Error())
			}
			return !has
		}
		server, err = dns.Listen(ctx, d)
		return err
	})
	if err != nil {
		err = fmt.Errorf("dns: %w", err)
		if server != nil { // the visit has failed at its end
			err = errors.Join(err, server.Close())
		}
		return nil, nil, err
	}
	return server, asked, nil
}

// podLog returns the loggers for lines about one pod.
func (n *Node) podLog(span, pod string) func(scope string) *slog.Logger {
	if n.PodLog == nil {
		return n.Log
	}
	return func(scope string) *slog.Logger { return n.PodLog(scope, span, pod) }
}

// servedPod is one pod that is served. While it is idle, no goroutine waits for its end: the one that does begins with the
// drain.
type servedPod struct {
	node  *Node
	pod   *Pod           // nil if there is only DNS
	dns   *dns.Server    // nil if there is none
	asked []syscall.Conn // its sockets
	netns *os.File
	log   *slog.Logger
	ctx   context.Context // of the pod's connections

	drain sync.Once
	done  chan struct{}
}

func (p *servedPod) begin() {
	failed := func(err error) { p.log.Error("a part of a pod's proxy has ended", "error", err) }
	if p.pod != nil {
		p.ctx = p.pod.begin(context.Background(), failed)
	}
	if p.dns != nil {
		p.dns.Start(failed)
	}
}

// Drain begins the end. Not immediate, the open connections have until the node's deadline; else the ports are free when it
// returns.
func (p *servedPod) Drain(immediate bool) {
	if immediate {
		p.stop()
	}
	p.drain.Do(func() { go p.end() }) // Done is how its end is waited for
}

// stop closes the listeners and cuts the connections, and does not wait for their end. end reports what goes wrong.
func (p *servedPod) stop() {
	if p.dns != nil {
		_ = p.dns.Stop()
	}
	if p.pod != nil {
		p.pod.cut(live.ErrDraining)
		_ = p.pod.closeListeners()
	}
}

// end waits for the end of everything, and then closes the namespace.
func (p *servedPod) end() {
	defer close(p.done)
	for _, c := range p.asked {
		_ = socket.Yield(c) // without another process questions still come here
	}
	var errs []error
	if p.pod != nil {
		errs = append(errs, p.pod.end(p.ctx, p.node.Config.DrainDeadline))
	}
	errs = append(errs, p.closeDNS(), p.netns.Close()) // DNS last: open connections may need it
	if err := errors.Join(errs...); err != nil {
		p.log.Warn("ending the proxy of a pod", "error", err)
	}
}

func (p *servedPod) closeDNS() error {
	if p.dns == nil {
		return nil
	}
	return p.dns.Close()
}

// Done is closed when nothing of the pod is left.
func (p *servedPod) Done() <-chan struct{} { return p.done }

// Connections lists the open connections in the form of the config dump.
func (p *servedPod) Connections() any {
	if p.pod == nil {
		return nil
	}
	return p.pod.Connections()
}
