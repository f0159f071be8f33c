// Package discovery owns what the control plane's resources mean: it fills the workload store and the policy set from them,
// tells of identities that come to this node and leave it, and asks for addresses on demand. How resources come is the
// business of package xds.
//
//	xds.Client ── istio.workload.Address ──────> addresses ──> workload.Store, Prefetch, Forget
//	           ── istio.security.Authorization ─> policies ───> rbac.Set
//	           <─ Demand ── Need <── inbound, outbound
//
// A response is decoded and converted without any lock, one resource at a time, and then applied as one step. A resource
// that cannot be accepted is rejected alone; the others of its response are applied.
//
// Content of a local configuration is the static base, as in the reference: it is loaded first, and what comes from here is
// applied on top of it, in the same stores. A resource with the UID, service name or policy name of a local one replaces it,
// a removal by that name removes it, and nothing brings it back. What the control plane never names stays. A reload of the
// local file replaces the content of the stores as a whole, so the file must not be watched beside a control plane.
package discovery

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"

	"ztunnel/proxy/rbac"
	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
	"ztunnel/proxy/xds"
)

// The types of resources that are subscribed to, in this order.
const (
	AddressType       = "type.googleapis.com/istio.workload.Address"
	AuthorizationType = "type.googleapis.com/istio.security.Authorization"
)

// Config configures a Discovery. It is not changed after use.
type Config struct {
	Channel xds.Channel // the way to the control plane
	Address string      // of the control plane, for log and metrics
	Node    xds.NodeConfig
	// OnDemand asks for workloads and services only when they are needed; policies and the workloads of this node come
	// all the same.
	OnDemand bool

	Store    *workload.Store // gets workloads and services
	Policies *rbac.Set       // gets policies

	// NodeName is the node that this process serves. Prefetch is called for workloads on it; "" is no node.
	NodeName string
	// Prefetch is told the identity of each workload that comes to this node, or is updated there, and takes part in the
	// mesh. Forget is told an identity when the last workload of this node with its namespace and service account is gone
	// or has got another identity; without a NodeName every node counts as this one. Both are called when the change is
	// visible, by the goroutine of Run, which they must not hold up. Nil is not called.
	Prefetch, Forget func(spiffe.ID)

	Log       *slog.Logger // of the client; nil discards
	StateLog  *slog.Logger // of what is put into force; nil discards
	StreamLog func(id int) *slog.Logger
}

// Discovery fills the stores from the control plane. Run is for one goroutine, everything else for any. A nil *Discovery
// stands for no control plane: Need returns at once.
type Discovery struct {
	client   *xds.Client
	store    *workload.Store
	onDemand bool
}

// New returns a Discovery. It does nothing until Run.
func New(cfg Config) (*Discovery, error) {
	d := &Discovery{store: cfg.Store, onDemand: cfg.OnDemand}
	client, err := newClient(cfg, d.known)
	if err != nil {
		return nil, err
	}
	d.client = client
	return d, nil
}

func newClient(cfg Config, known func(key string) bool) (*xds.Client, error) {
	node, err := xds.NewNode(cfg.Node)
	if err != nil {
		return nil, err
	}
	if cfg.StateLog == nil {
		cfg.StateLog = slog.New(slog.DiscardHandler)
	}
	return xds.New(xds.Config{
		Channel: cfg.Channel, Address: cfg.Address, Node: node, Log: cfg.Log, StreamLog: cfg.StreamLog,
		Types: []xds.Type{
			{URL: AddressType, Handler: newAddresses(cfg), OnDemand: cfg.OnDemand, Known: known},
			{URL: AuthorizationType, Handler: newPolicies(cfg)},
		},
	}), nil
}

// Run keeps the stores up to date until ctx ends, and then returns nil.
func (d *Discovery) Run(ctx context.Context) error { return d.client.Run(ctx) }

// Synced returns a channel that is closed when the stores have been filled for the first time: with a response of each type
// that was accepted, on demand only with policies. Before that the content must not be relied on.
func (d *Discovery) Synced() <-chan struct{} { return d.client.Synced() }

// Status returns how the connection to the control plane stands.
func (d *Discovery) Status() xds.Status { return d.client.Status() }

// Need is to be called before a lookup that can miss in on-demand mode. It returns when the stores have what the key stands
// for, or when they will not have it: the control plane does not know it, was asked a moment ago, does not answer within
// xds.DemandTimeout, or ctx ends. So the caller looks it up afterwards in any case, and treats a miss as unknown. Without
// on-demand mode, and for what is known, it returns at once; any number may ask for one key.
//
// A key is "NETWORK/IP", "NAMESPACE/HOSTNAME" or a workload's UID. NeedAddress, NeedHostname and the like spare the caller
// the making of a key that is known.
func (d *Discovery) Need(ctx context.Context, key string) {
	if d == nil || !d.onDemand {
		return
	}
	d.client.Demand(ctx, AddressType, key)
}

// NeedAddress is Need for the workload or service with an address. The address must be unmapped.
func (d *Discovery) NeedAddress(ctx context.Context, network string, addr netip.Addr) {
	if d == nil || !d.onDemand || d.hasAddress(network, addr) {
		return
	}
	d.Need(ctx, workload.NetworkAddress{Network: network, Addr: addr}.String())
}

// NeedHostname is Need for the service or workload with a hostname.
func (d *Discovery) NeedHostname(ctx context.Context, name workload.NamespacedHostname) {
	if d == nil || !d.onDemand || d.hasHostname(name) {
		return
	}
	d.Need(ctx, name.String())
}

// known reports whether the stores have what the key stands for.
func (d *Discovery) known(key string) bool {
	if d.store.WorkloadByUID(key) != nil {
		return true
	}
	before, after, ok := strings.Cut(key, "/")
	if !ok {
		return false
	}
	if addr, err := netip.ParseAddr(after); err == nil {
		return d.hasAddress(before, addr)
	}
	return d.hasHostname(workload.NamespacedHostname{Namespace: before, Hostname: after})
}

func (d *Discovery) hasAddress(network string, addr netip.Addr) bool {
	return d.store.Workload(network, addr) != nil || d.store.ServiceByVIP(network, addr, "", false) != nil
}

func (d *Discovery) hasHostname(name workload.NamespacedHostname) bool {
	return d.store.Service(name) != nil || d.store.WorkloadByHostname(name) != nil
}
