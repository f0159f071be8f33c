package control

import (
	"maps"
	"slices"
	"strings"

	"ztunnel/proxy/api/discoveryapi"
)

const (
	wildcard = "*"
	// maxNames bounds the names that one stream may subscribe to.
	maxNames = 1 << 20
)

// A watch is what one stream wants to know of one kind, and what it has not been
// told yet. The lock of the plane protects it.
type watch struct {
	kind kind
	node string // of the client; its workloads come unasked on demand

	all bool // everything, rather than what is in subs
	// subs are the names that the client has, as far as it was told, and on
	// demand those that it asked for too.
	subs map[string]struct{}

	// To be told with the next response:
	due   bool                // the first one, which always comes
	held  map[string]string   // names and versions that the client had before it
	asked []string            // names that it asked for since
	left  bool                // it unsubscribed from some
	dirty map[string]struct{} // names of what changed

	nonce string // of the last response
	unack bool   // which has not been answered
}

// newWatch is the watch of a stream's first request of a kind.
func newWatch(k kind, node string, r *discoveryapi.DeltaDiscoveryRequest) *watch {
	w := &watch{
		kind:  k,
		node:  node,
		subs:  map[string]struct{}{},
		due:   true,
		held:  r.GetInitialResourceVersions(),
		dirty: map[string]struct{}{},
	}
	for name := range w.held {
		w.subs[name] = struct{}{}
	}
	for _, name := range r.GetResourceNamesSubscribe() {
		w.subs[name] = struct{}{}
	}
	for _, name := range r.GetResourceNamesUnsubscribe() {
		delete(w.subs, name)
	}
	_, star := w.subs[wildcard]
	delete(w.subs, wildcard)
	// Who subscribes to nothing wants everything; who really wants nothing says
	// so by unsubscribing from everything at once.
	w.all = star || len(r.GetResourceNamesSubscribe()) == 0
	return w
}

// size is how many names it holds because of the client.
func (w *watch) size() int {
	if w.all { // of subs there are as many as resources
		return len(w.held) + len(w.asked)
	}
	return len(w.subs) + len(w.held) + len(w.asked)
}

// subscribe changes the subscriptions of a watch that has begun.
func (w *watch) subscribe(r *discoveryapi.DeltaDiscoveryRequest) {
	w.asked = append(w.asked, r.GetResourceNamesSubscribe()...)
	if w.all {
		return
	}
	for _, name := range r.GetResourceNamesUnsubscribe() {
		delete(w.subs, name)
		w.left = true
	}
}

// wants reports whether the client is to be told of a change. e is nil if the
// resource was removed: of that only those are told who have it.
func (w *watch) wants(name string, e *entry) bool {
	if _, ok := w.subs[name]; ok || e == nil {
		return ok
	}
	if w.all {
		return true
	}
	if w.node != "" && e.node == w.node {
		return true
	}
	return slices.ContainsFunc(e.services, func(service string) bool {
		_, ok := w.subs[service]
		return ok
	})
}

// pending reports whether there is something to be told.
func (w *watch) pending() bool {
	return w.due || w.left || len(w.asked) > 0 || len(w.dirty) > 0
}

// collect returns what is to be told, and forgets it. Resources that the client
// holds in the same version are left out.
func (w *watch) collect(s *store) (found map[string]*entry, removed []string) {
	found = map[string]*entry{}
	gone := map[string]struct{}{}
	if w.due {
		w.first(s, found, gone)
	}
	for _, name := range w.asked {
		if !s.find(w.kind, name, found) {
			gone[name] = struct{}{}
			delete(w.subs, name)
		} else if !w.all {
			w.subs[name] = struct{}{}
		}
	}
	if w.left {
		// Istiod answers so, though the client goes on being told of them.
		for name := range w.subs {
			gone[name] = struct{}{}
		}
	}
	for name := range w.dirty {
		if e := s.byName[w.kind][name]; e != nil {
			found[name] = e
		} else {
			gone[name] = struct{}{}
			delete(w.subs, name)
		}
	}
	for name := range found {
		w.subs[name] = struct{}{}
	}
	w.due, w.left, w.held, w.asked = false, false, nil, nil
	clear(w.dirty)
	for name := range gone {
		removed = append(removed, name)
	}
	slices.Sort(removed)
	return found, removed
}

// first collects for the first response of a stream.
func (w *watch) first(s *store, found map[string]*entry, gone map[string]struct{}) {
	if w.all {
		maps.Copy(found, s.byName[w.kind])
	} else if w.kind == addresses {
		for e := range s.byNode[w.node] {
			found[e.name] = e
		}
	}
	for name := range w.subs {
		known := s.byName[w.kind][name] != nil
		if !w.all {
			known = s.find(w.kind, name, found)
		}
		if !known {
			gone[name] = struct{}{}
			delete(w.subs, name)
		}
	}
	for name, version := range w.held {
		// Policies have no versions: they are all sent again.
		if e := found[name]; e != nil && w.kind == addresses && e.version == version {
			delete(found, name)
			w.subs[name] = struct{}{}
		}
	}
}

// nodeName is the node that a client says it is on, and whether it may say what
// it says of itself.
func nodeName(who caller, n *discoveryapi.Node) (node string, problem string) {
	parts := strings.Split(n.GetId(), "~")
	if len(parts) != 4 || parts[0] != "ztunnel" {
		return "", "node id is not of the form ztunnel~IP~NAME.NAMESPACE~DOMAIN"
	}
	fields := n.GetMetadata().GetFields()
	if namespace := fields["NAMESPACE"].GetStringValue(); namespace != who.Namespace {
		return "", "authentication failure: metadata NAMESPACE is not the token's"
	}
	if sa := fields["SERVICE_ACCOUNT"].GetStringValue(); sa != "" && sa != who.ServiceAccount {
		return "", "authentication failure: metadata SERVICE_ACCOUNT is not the token's"
	}
	return fields["NODE_NAME"].GetStringValue(), ""
}
