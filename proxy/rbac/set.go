package rbac

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A Target is the workload that a connection goes to, as far as policies are
// concerned.
type Target struct {
	Namespace string
	// Policies are the keys ("namespace/name") of the WorkloadSelector policies
	// that the workload names. Keys that are not known are skipped.
	Policies []string
}

// A Decision is the answer of [Set.Authorize].
type Decision struct {
	Allowed bool
	// Policy is the key of the policy that decided, empty if none did: nothing
	// applied, or ALLOW policies applied and none matched.
	Policy string
	// Explicit is set if an ALLOW policy matched, as opposed to no ALLOW policy
	// applying at all.
	Explicit bool
	// Err is nil or a *DenyError.
	Err error
}

// Set is the policies in force. All its methods may be called concurrently;
// writers exclude each other, readers never wait.
type Set struct {
	log   *slog.Logger
	level slog.Level

	mu   sync.Mutex // serialises writers
	snap atomic.Pointer[snapshot]
}

// NewSet returns an empty set. Decisions are logged to log at debug level, or
// at info level with infoLogging (AUTHZ_POLICY_INFO_LOGGING).
func NewSet(log *slog.Logger, infoLogging bool) *Set {
	s := &Set{log: log, level: slog.LevelDebug}
	if infoLogging {
		s.level = slog.LevelInfo
	}
	s.snap.Store(newSnapshot(map[string]*compiled{}))
	return s
}

// Replace makes policies the whole content. Of two with the same key the later
// one counts. The set keeps the policies.
func (s *Set) Replace(policies []*Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publish(upsert(make(map[string]*compiled, len(policies)), policies))
}

// Apply removes the policies with the given keys and then adds upserts,
// replacing those of the same key, all in one step for readers. It is no
// change, and [Set.Changed] does not fire, if both lists are empty.
func (s *Set) Apply(upserts []*Policy, removed []string) {
	if len(upserts) == 0 && len(removed) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	policies := maps.Clone(s.snap.Load().byKey)
	for _, key := range removed {
		delete(policies, key)
	}
	s.publish(upsert(policies, upserts))
}

func upsert(to map[string]*compiled, policies []*Policy) map[string]*compiled {
	for _, p := range policies {
		c := compile(p)
		to[c.key] = c
	}
	return to
}

// publish makes the policies visible and then wakes those who wait. The caller
// holds s.mu.
func (s *Set) publish(policies map[string]*compiled) {
	old := s.snap.Swap(newSnapshot(policies))
	close(old.changed)
}

// Changed returns a channel that is closed at the next change. To miss none,
// call it before looking at the content, and again after each close.
func (s *Set) Changed() <-chan struct{} { return s.snap.Load().changed }

// Policies returns all policies sorted by key. The slice is the caller's, the
// policies are not to be changed.
func (s *Set) Policies() []*Policy {
	sorted := slices.SortedFunc(maps.Values(s.snap.Load().byKey), byKey)
	policies := make([]*Policy, len(sorted))
	for i, c := range sorted {
		policies[i] = c.policy
	}
	return policies
}

func byKey(a, b *compiled) int { return strings.Compare(a.key, b.key) }

// snapshot is one state of a Set. Apart from warned it is immutable.
type snapshot struct {
	byKey  map[string]*compiled
	global plan
	// byNamespace has the plan, global policies included, of each namespace
	// that has policies of its own.
	byNamespace map[string]*plan
	changed     chan struct{}

	warnMu sync.Mutex
	warned map[string]struct{} // unknown keys already reported, under warnMu
}

// maxWarned bounds how many unknown keys one state of the set reports. Keys
// come from workloads, so their number has no other bound.
const maxWarned = 256

// plan is the policies of one namespace in order of evaluation, each list
// sorted by key.
type plan struct {
	dryDeny, deny, dryAllow, allow []*compiled
}

func newSnapshot(policies map[string]*compiled) *snapshot {
	s := &snapshot{
		byKey:       policies,
		byNamespace: make(map[string]*plan),
		changed:     make(chan struct{}),
	}
	var globals []*compiled
	sorted := slices.SortedFunc(maps.Values(policies), byKey)
	namespaces := make(map[string][]*compiled)
	for _, c := range sorted {
		switch c.policy.Scope {
		case Global:
			globals = append(globals, c)
		case Namespace:
			ns := c.policy.Namespace
			namespaces[ns] = append(namespaces[ns], c)
		}
	}
	s.global.add(globals)
	for ns, own := range namespaces {
		all := slices.Concat(globals, own)
		slices.SortFunc(all, byKey)
		p := new(plan)
		p.add(all)
		s.byNamespace[ns] = p
	}
	return s
}

// add distributes policies, which are sorted, over the lists.
func (p *plan) add(policies []*compiled) {
	for _, c := range policies {
		list := p.list(c.policy.Action, c.policy.DryRun)
		*list = append(*list, c)
	}
}

func (p *plan) list(a Action, dryRun bool) *[]*compiled {
	switch {
	case a == Deny && dryRun:
		return &p.dryDeny
	case a == Deny:
		return &p.deny
	case dryRun:
		return &p.dryAllow
	}
	return &p.allow
}

// planFor returns the plan of what applies to every workload of a namespace.
func (s *snapshot) planFor(namespace string) *plan {
	if p, ok := s.byNamespace[namespace]; ok {
		return p
	}
	return &s.global
}

// named appends to buf, sorted by key and without duplicates, the policies
// that a workload names. Unknown ones are reported once per state of the set.
func (s *snapshot) named(buf []*compiled, keys []string, log *slog.Logger) []*compiled {
	for _, key := range keys {
		c, ok := s.byKey[key]
		if !ok {
			s.warnUnknown(key, log)
			continue
		}
		if i, found := slices.BinarySearchFunc(buf, c, byKey); !found {
			buf = slices.Insert(buf, i, c)
		}
	}
	return buf
}

// warnUnknown says that a policy does not exist (yet): a workload may name a
// policy that arrives a moment later.
func (s *snapshot) warnUnknown(key string, log *slog.Logger) {
	s.warnMu.Lock()
	_, known := s.warned[key]
	report := !known && len(s.warned) < maxWarned
	if report {
		if s.warned == nil {
			s.warned = make(map[string]struct{})
		}
		s.warned[key] = struct{}{}
	}
	s.warnMu.Unlock()
	if report {
		log.LogAttrs(context.Background(), slog.LevelWarn, "skipping unknown policy "+key)
	}
}
