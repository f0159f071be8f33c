package discovery

import (
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
	"ztunnel/proxy/xds"
)

// addresses is the handler of workloads and services.
type addresses struct {
	store            *workload.Store
	node             string
	prefetch, forget func(spiffe.ID)
	interner         *workload.Interner
	message          workloadapi.Address // scratch
}

func newAddresses(cfg Config) *addresses {
	return &addresses{
		store: cfg.Store, node: cfg.NodeName, prefetch: cfg.Prefetch, forget: cfg.Forget, interner: workload.NewInterner(),
	}
}

// decoding drops what this version does not know: nothing of a message is kept but what is converted.
var decoding = proto.UnmarshalOptions{DiscardUnknown: true}

// decode decodes a resource into m.
func decode(r *xds.Resource, m proto.Message) error {
	if err := decoding.Unmarshal(r.Body, m); err != nil {
		return fmt.Errorf("decode: failed to decode Protobuf message: %w", err)
	}
	return nil
}

// Handle applies a response to the store.
func (a *addresses) Handle(b *xds.Batch) {
	var u workload.Update
	for r := range b.Resources() {
		w, s, err := a.convert(r)
		switch {
		case err != nil:
			r.Reject(err)
		case w != nil:
			u.Workloads = append(u.Workloads, w)
		default:
			u.Services = append(u.Services, s)
		}
	}
	for name := range b.Removed() {
		if !isAddress(name) {
			u.Removed = append(u.Removed, name)
		}
	}
	a.message.Reset()
	left := a.leaving(&u)
	a.store.Apply(u)
	a.fetch(u.Workloads)
	if len(left) == 0 {
		return
	}
	for _, id := range a.store.WithoutLocal(left) {
		a.forget(id)
	}
}

// isAddress reports whether a name is NETWORK/IP. Resources have no such names; on demand an address that is unknown is
// "removed" by it.
func isAddress(name string) bool {
	_, ip, ok := strings.Cut(name, "/")
	if !ok {
		return false
	}
	_, err := netip.ParseAddr(ip)
	return err == nil
}

func (a *addresses) convert(r *xds.Resource) (*workload.Workload, *workload.Service, error) {
	if err := decode(r, &a.message); err != nil {
		return nil, nil, err
	}
	if w := a.message.GetWorkload(); w.GetUid() == r.Name {
		w.Uid = r.Name // one string for the store and for the client
	}
	return workload.FromProto(&a.message, a.interner)
}

// leaving returns the identities that workloads of this node have and perhaps will not have once u is applied.
func (a *addresses) leaving(u *workload.Update) []spiffe.ID {
	if a.forget == nil {
		return nil
	}
	var left []spiffe.ID
	for _, w := range u.Workloads {
		if old := a.local(w.UID); old != nil && (old.Identity() != w.Identity() || old.Node != w.Node) {
			left = append(left, old.Identity())
		}
	}
	for _, name := range u.Removed {
		if old := a.local(name); old != nil {
			left = append(left, old.Identity())
		}
	}
	return left
}

// local returns the stored workload with the UID if it is of this node, as the store understands that.
func (a *addresses) local(uid string) *workload.Workload {
	w := a.store.WorkloadByUID(uid)
	if w == nil || a.node != "" && w.Node != a.node {
		return nil
	}
	return w
}

// fetch has the certificates made for the workloads that came to this node and stayed.
func (a *addresses) fetch(workloads []*workload.Workload) {
	if a.prefetch == nil || a.node == "" {
		return
	}
	for _, w := range workloads {
		if w.Node != a.node || !w.NativeTunnel && w.Protocol != workload.HBONE {
			continue
		}
		if now := a.store.WorkloadByUID(w.UID); now != nil && now.Identity() == w.Identity() {
			a.prefetch(w.Identity())
		}
	}
}
