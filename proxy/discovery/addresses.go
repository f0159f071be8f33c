package discovery

import (
	"net/netip"
	"strings"

	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
	"ztunnel/proxy/xds"
)

// addresses is the handler of workloads and services.
type addresses struct {
	store            *workload.Store
	node             string
	prefetch, forget func(spiffe.ID)
	decoder          *workload.Decoder
}

func newAddresses(cfg Config) *addresses {
	return &addresses{
		store: cfg.Store, node: cfg.NodeName, prefetch: cfg.Prefetch, forget: cfg.Forget, decoder: workload.NewDecoder(),
	}
}

// Handle applies a response to the store.
func (a *addresses) Handle(b *xds.Batch) {
	var u workload.Update
	b.Unchanged = func(name []byte) {
		if w := a.store.Contender(name); w != nil { // it is sent last now, and that counts
			u.Workloads = append(u.Workloads, w)
		}
	}
	for r := range b.Resources() {
		w, s, err := a.decoder.Decode(r.Name, r.Body)
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
