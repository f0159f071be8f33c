package control

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/securityapi"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/spiffe"
)

// Update is a change of what the control plane knows. The messages are encoded
// within [Plane.Update], which does not keep them.
type Update struct {
	// Added, or put in place of those of the same name.
	Workloads []*workloadapi.Workload
	Services  []*workloadapi.Service
	Policies  []*securityapi.Authorization
	// Remove is done after that. Names of nothing are ignored.
	Remove Names
}

// Names of resources.
type Names struct {
	Workloads []string // uids
	Services  []string // NAMESPACE/HOSTNAME
	Policies  []string // NAMESPACE/NAME
}

// Update makes a change and wakes the streams that want to know. If anything in
// it is not what a ztunnel could accept, it returns all such faults and changes
// nothing. It does not wait for clients; see [Stats].Behind.
func (p *Plane) Update(u Update) error {
	entries := make([]*entry, 0, len(u.Workloads)+len(u.Services)+len(u.Policies))
	var faults []error
	collect := func(e *entry, err error) {
		entries, faults = append(entries, e), append(faults, err)
	}
	for _, w := range u.Workloads {
		collect(workloadEntry(w))
	}
	for _, s := range u.Services {
		collect(serviceEntry(s))
	}
	for _, a := range u.Policies {
		collect(policyEntry(a))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("update control plane: %w", err)
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range entries {
		if p.store.put(e) {
			p.changed(e.kind, e.name)
		}
	}
	for _, name := range slices.Concat(u.Remove.Workloads, u.Remove.Services) {
		if p.store.remove(addresses, name) {
			p.changed(addresses, name)
		}
	}
	for _, name := range u.Remove.Policies {
		if p.store.remove(policies, name) {
			p.changed(policies, name)
		}
	}
	return nil
}

// changed tells the streams of a change. The caller holds the lock.
func (p *Plane) changed(k kind, name string) {
	e := p.store.byName[k][name] // nil: removed
	for s := range p.streams {
		s.changed(k, name, e)
	}
}

func workloadEntry(w *workloadapi.Workload) (*entry, error) {
	faults := []error{must(w.GetUid() != "", "no uid")}
	var aliases []string
	for _, address := range w.GetAddresses() {
		ip, ok := netip.AddrFromSlice(address)
		faults = append(faults, must(ok, "address of %d bytes", len(address)))
		aliases = append(aliases, w.GetNetwork()+"/"+ip.String())
	}
	for service := range w.GetServices() {
		faults = append(faults, must(strings.Contains(service, "/"), "service %q without a namespace", service))
	}
	e, err := encode(addresses, w.GetUid(), &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: w}})
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, fmt.Errorf("workload %q: %w", w.GetUid(), err)
	}
	e.aliases = aliases
	e.services = slices.Collect(maps.Keys(w.GetServices()))
	e.node = w.GetNode()
	e.id = accountID(w.GetNamespace(), w.GetServiceAccount())
	return e, nil
}

func serviceEntry(s *workloadapi.Service) (*entry, error) {
	name := s.GetNamespace() + "/" + s.GetHostname()
	faults := []error{must(s.GetNamespace() != "" && s.GetHostname() != "", "no namespace or no hostname")}
	var aliases []string
	for _, address := range s.GetAddresses() {
		ip, ok := netip.AddrFromSlice(address.GetAddress())
		faults = append(faults,
			must(ok, "address of %d bytes", len(address.GetAddress())),
			must(!ok || int(address.GetLength()) <= ip.BitLen(), "prefix length %d", address.GetLength()))
		alias := address.GetNetwork() + "/" + ip.String()
		if address.Length != nil && int(address.GetLength()) != ip.BitLen() {
			alias += "/" + strconv.Itoa(int(address.GetLength()))
		}
		aliases = append(aliases, alias)
	}
	e, err := encode(addresses, name, &workloadapi.Address{Type: &workloadapi.Address_Service{Service: s}})
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, fmt.Errorf("service %q: %w", name, err)
	}
	e.isService, e.aliases = true, aliases
	return e, nil
}

func policyEntry(a *securityapi.Authorization) (*entry, error) {
	name := a.GetNamespace() + "/" + a.GetName()
	fault := must(a.GetNamespace() != "" && a.GetName() != "", "no namespace or no name")
	e, err := encode(policies, name, a)
	if err := errors.Join(fault, err); err != nil {
		return nil, fmt.Errorf("policy %q: %w", name, err)
	}
	return e, nil
}

// encode makes an entry with what all kinds have. Equal messages get equal
// versions, also in another process.
func encode(k kind, name string, m proto.Message) (*entry, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	hash := fnv.New64a()
	_, _ = hash.Write(body) // never fails
	return &entry{kind: k, name: name, version: strconv.FormatUint(hash.Sum64(), 16), body: body}, nil
}

// accountID is a service account as an identity without its trust domain.
func accountID(namespace, serviceAccount string) spiffe.ID {
	if serviceAccount == "" {
		serviceAccount = spiffe.DefaultServiceAccount
	}
	return spiffe.ID{Namespace: namespace, ServiceAccount: serviceAccount}
}

// must is an error unless ok.
func must(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}
