package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"ztunnel/proxy/spiffe"
)

// Config configures a Store. It is not changed after use.
type Config struct {
	// NodeName is the node this process serves: a workload is local if it runs there. "" makes every workload local.
	NodeName string
	// Log gets what is odd in an update, at warn, and services hidden from a client, at debug. Nil discards it.
	Log *slog.Logger
}

// Store is the content of the mesh as one node knows it. One goroutine at a time may write (Apply, Replace); any number
// may read at the same time. A reader sees a batch completely or not at all. What the readers' methods return is
// read-only and stays valid, if perhaps outdated. The store grows with what the control plane sends, and with nothing else.
type Store struct {
	node string
	log  *slog.Logger

	mu      sync.RWMutex
	ix      *index                // replaced as a whole by Replace
	changed chan struct{}         // closed at the next change of a local workload
	waiting map[Info]*localWaiter // callers of WaitLocal

	sorting sync.Mutex // held while classes are made, below mu
}

// localWaiter is shared by all that wait for the same workload. Guarded by Store.mu.
type localWaiter struct {
	arrived chan struct{} // closed when a workload of that description is stored
	callers int
}

// NewStore returns an empty store.
func NewStore(cfg Config) *Store {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{
		node:    cfg.NodeName,
		log:     log,
		ix:      newIndex(cfg.NodeName, 0, 0),
		changed: make(chan struct{}),
		waiting: make(map[Info]*localWaiter),
	}
}

// Update is a batch of changes. It is applied in the order of the fields, and each list in its own order, so that the last
// word about a workload or service wins. The store keeps the pointers: the values must not be changed afterwards.
type Update struct {
	Workloads []*Workload // added or replaced, by UID
	Services  []*Service  // added or replaced, by namespace and hostname
	// ServiceEndpoints are endpoints given with a service, replacing those given before. The endpoints that workloads
	// declare come on top, by themselves.
	ServiceEndpoints map[NamespacedHostname][]StaticEndpoint
	RemovedWorkloads []string             // by UID; unknown ones are ignored
	RemovedServices  []NamespacedHostname // unknown ones are ignored
	// Removed are names of resources of which only the name is known. A name is taken as a workload's UID if there is
	// such a workload, else as the NAMESPACE/HOSTNAME of a service; one that is neither changes nothing.
	Removed []string
}

// Apply makes one batch of changes. Readers see all of it or nothing. A workload or service that is stored in the same
// words already is left alone: readers keep getting the stored one, and nobody is woken for it.
func (s *Store) Apply(u Update) {
	s.reportSANs(u.Services)
	// Only the writer changes the index, so it may read it without the lock.
	workloads, services := s.ix.changedWorkloads(u.Workloads), s.ix.changedServices(u.Services)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ix.empty() {
		s.ix = newIndex(s.node, len(workloads), len(services))
	}
	s.ix.putWorkloads(workloads, u.Workloads)
	for _, svc := range services {
		s.ix.putService(svc)
	}
	for key, endpoints := range u.ServiceEndpoints {
		s.ix.putStatic(key, endpoints)
	}
	removed := false
	for _, uid := range u.RemovedWorkloads {
		removed = s.ix.removeWorkload(uid) || removed
	}
	for _, key := range u.RemovedServices {
		removed = s.ix.removeService(key) || removed
	}
	for _, n := range u.Removed {
		removed = s.removeNamed(n) || removed
	}
	if removed || len(workloads)+len(services)+len(u.ServiceEndpoints) > 0 {
		s.notify()
	}
}

// removeNamed removes a resource by its name alone. A name whose second part has a slash is the UID of a workload that is
// not there any more.
func (s *Store) removeNamed(resource string) bool {
	if s.ix.removeWorkload(resource) {
		return true
	}
	key, ok := ParseNamespacedHostname(resource)
	if !ok {
		s.log.Warn("removal of a resource that is neither workload nor service", "name", resource)
		return false
	}
	if isUID(key) {
		return false
	}
	if !s.ix.removeService(key) {
		s.log.Warn("removal of an unknown service", "name", resource)
		return false
	}
	return true
}

// Replace makes this the whole content. It is built aside, so readers are not held up by it. Of several workloads with
// one UID, or services with one namespace and hostname, the last counts.
func (s *Store) Replace(workloads []*Workload, services []*Service, endpoints map[NamespacedHostname][]StaticEndpoint) {
	s.reportSANs(services)
	ix := newIndex(s.node, len(workloads), len(services))
	for _, w := range workloads {
		ix.putWorkload(w)
	}
	for _, svc := range services {
		ix.putService(svc)
	}
	for key, list := range endpoints {
		ix.putStatic(key, list)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ix = ix
	s.ix.touchedLocal = true // perhaps
	s.notify()
}

// reportSANs says which subject alternative names of the services are of no use.
func (s *Store) reportSANs(services []*Service) {
	for _, svc := range services {
		if len(svc.SANs) == len(svc.SubjectAltNames) {
			continue
		}
		_, invalid := ParseSANs(svc.SubjectAltNames)
		for _, san := range invalid {
			s.log.Warn(fmt.Sprintf("ignoring invalid SAN %s: %v", san, &spiffe.ParseError{Input: san}), "service", svc.Key().String())
		}
	}
}

// notify wakes those who wait for a change of local workloads, if there was one. The caller holds the lock.
func (s *Store) notify() {
	if !s.ix.touchedLocal {
		return
	}
	s.ix.touchedLocal = false
	close(s.changed)
	s.changed = make(chan struct{})
	for info, w := range s.waiting {
		if s.ix.local(info) != nil {
			close(w.arrived)
			delete(s.waiting, info)
		}
	}
}

// LocalChanged returns a channel that is closed at the next change of a workload of this node: of those of the others there may
// be thousands in a second. To miss none, ask for it before reading, and again after each close.
func (s *Store) LocalChanged() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed
}

// Workload returns the workload with the address, or nil. Of several, a pod that speaks HBONE goes before any other pod,
// that before anything else that speaks HBONE, and of equals the one that was stored last: an address that a new pod took
// over is the new pod's even before the old one's removal arrives. Workloads in their node's network have no address here.
func (s *Store) Workload(network string, addr netip.Addr) *Workload {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ix.byAddr.get(NetworkAddress{Network: network, Addr: addr}).workload()
}

// WorkloadByUID returns the workload with the UID, or nil.
func (s *Store) WorkloadByUID(uid string) *Workload {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ix.byUID[uid].workload()
}

// WorkloadByHostname returns the workload of the namespace that has this hostname, or nil. Of several the choice is as for
// Workload.
func (s *Store) WorkloadByHostname(name NamespacedHostname) *Workload {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ix.byHostname.best(name).workload()
}

// Local returns the local workload with this name, namespace and service account, or nil.
func (s *Store) Local(info Info) *Workload {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ix.local(info)
}

// Pod returns the workload that a pod of this node is: the local one with its name, namespace and service account, or one
// with these at the pod's address, whatever node the control plane believes it on. It returns nil if there is neither. The
// CNI agent knows better than anybody which pods are here.
func (s *Store) Pod(info Info, network string, addr netip.Addr) *Workload {
	if w := s.Local(info); w != nil {
		return w
	}
	if w := s.Workload(network, addr); w != nil && w.Info() == info {
		return w
	}
	return nil
}

// WaitError says that a local workload did not arrive in time.
type WaitError struct {
	Info Info
	Err  error // why the wait ended
}

// Error returns the reference's text when the time was up, and otherwise the reason.
func (e *WaitError) Error() string {
	if errors.Is(e.Err, context.DeadlineExceeded) {
		return fmt.Sprintf("timed out waiting for workload '%s' from xds", e.Info)
	}
	return fmt.Sprintf("wait for workload '%s': %v", e.Info, e.Err)
}

// Unwrap returns why the wait ended.
func (e *WaitError) Unwrap() error { return e.Err }

// WaitLocal returns the local workload with this name, namespace and service account: at once if it is there, else as soon
// as it is stored. When ctx ends first, the error is a *WaitError with its cause.
func (s *Store) WaitLocal(ctx context.Context, info Info) (*Workload, error) {
	for {
		if w := s.Local(info); w != nil {
			return w, nil
		}
		waiter := s.await(info)
		if waiter == nil {
			continue // it arrived between the two looks
		}
		select {
		case <-waiter.arrived:
		case <-ctx.Done():
			s.giveUp(info, waiter)
			return nil, &WaitError{Info: info, Err: context.Cause(ctx)}
		}
	}
}

// await registers a caller of WaitLocal, or returns nil if the workload is there.
func (s *Store) await(info Info) *localWaiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ix.local(info) != nil {
		return nil
	}
	w := s.waiting[info]
	if w == nil {
		w = &localWaiter{arrived: make(chan struct{})}
		s.waiting[info] = w
	}
	w.callers++
	return w
}

func (s *Store) giveUp(info Info, w *localWaiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.callers--
	if w.callers == 0 && s.waiting[info] == w {
		delete(s.waiting, info)
	}
}

// Service returns the service of that namespace and hostname, whatever its visibility, or nil.
func (s *Store) Service(name NamespacedHostname) *Service {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ix.service(name)
}

// ServicesOf returns the services that the workload says it is an endpoint of and that are known, ordered by namespace and
// hostname.
func (s *Store) ServicesOf(w *Workload) []*Service {
	if w == nil || len(w.Services) == 0 {
		return nil
	}
	out := make([]*Service, 0, len(w.Services))
	s.mu.RLock()
	for key := range w.Services {
		if svc := s.ix.service(key); svc != nil {
			out = append(out, svc)
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(out, func(a, b *Service) int { return a.Key().compare(b.Key()) })
	return out
}

// Endpoints returns the endpoints of the service that its health policy accepts, each with its workload. The service is
// found by namespace and hostname, so an outdated pointer gets the present endpoints; if there is no such service any
// more it is nil. The slice is shared: it must not be changed. It is made once after a change and then handed out without
// allocation. Its order is stable while nothing changes, and means nothing.
func (s *Store) Endpoints(svc *Service) []Endpoint {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.ix.services[svc.Key()]
	if e == nil || e.svc == nil {
		return nil
	}
	return s.endpoints(e)
}

// endpoints is Endpoints of a known service. The caller holds the read lock.
func (s *Store) endpoints(e *entry) []Endpoint {
	if p := e.endpoints.Load(); p != nil {
		return *p
	}
	// The writer is shut out by the read lock, so the list can't be outdated; other readers may make the same list.
	list := s.ix.endpointsOf(e)
	e.endpoints.Store(&list)
	return list
}

// PortsOf returns the ports that the workload has as an endpoint of the service, by its own word or else by the service's. ok
// is false if it is none. The map is read-only.
func (s *Store) PortsOf(w *Workload, svc *Service) (ports PortMap, ok bool) {
	if ports, ok = w.Services[svc.Key()]; ok {
		return ports, true
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.ix.services[svc.Key()]
	if e == nil || e.svc == nil || len(e.static) == 0 {
		return nil, false
	}
	for _, e := range s.endpoints(e) {
		if e.Workload.UID == w.UID {
			return e.Ports, true
		}
	}
	return nil, false
}
