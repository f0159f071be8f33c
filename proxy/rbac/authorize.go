package rbac

import (
	"context"
	"log/slog"
)

// Sizes of the buffers that Authorize keeps on its stack: a principal of two
// Kubernetes names and a trust domain, and more selector policies than a
// workload usually has. What exceeds them is allocated.
const (
	principalBuffer = 256
	namedBuffer     = 16
)

// Authorize decides whether c may reach target. It looks at one consistent
// state of the set; its only side effects are log lines. It does not allocate
// unless it logs or a workload names many policies.
//
// The order is: dry-run DENY (logged), DENY, dry-run ALLOW (logged), no ALLOW
// policy applies, ALLOW; within each step by key.
func (s *Set) Authorize(target Target, c *Connection) Decision {
	snap := s.snap.Load()
	var buf [namedBuffer]*compiled
	e := evaluation{
		plan:  snap.planFor(target.Namespace),
		named: snap.named(buf[:0], target.Policies, s.log),
	}
	if s.log.Enabled(context.Background(), s.level) {
		e.log, e.level = s.log, s.level
	}
	var principal [principalBuffer]byte
	e.subject = prepare(c, principal[:])
	return e.decide()
}

// evaluation is one run of Authorize.
type evaluation struct {
	plan    *plan
	named   []*compiled // sorted by key, of every action
	subject subject
	log     *slog.Logger // nil if decisions are not logged
	level   slog.Level
}

func (e *evaluation) decide() Decision {
	if e.log != nil {
		e.dryRun(e.plan.dryDeny, Deny, "dry-run: deny policy match")
	}
	if c, _ := e.first(e.plan.deny, Deny); c != nil {
		e.say("deny policy match", c.key)
		return Decision{Policy: c.key, Err: c.deny}
	}
	c, allows := e.first(e.plan.allow, Allow)
	if e.log != nil {
		dryAllows, matched := e.dryRun(e.plan.dryAllow, Allow, "dry-run: allow policy match")
		if dryAllows && !allows && !matched {
			e.say("dry-run: no allow policies match", "")
		}
	}
	switch {
	case !allows:
		e.say("no allow policies, allow", "")
		return Decision{Allowed: true}
	case c != nil:
		e.say("allow policy match", c.key)
		return Decision{Allowed: true, Policy: c.key, Explicit: true}
	}
	e.say("no allow policies matched", "")
	return Decision{Err: errNotAllowed}
}

// first returns the first enforced policy of an action that matches, by key,
// and whether there is any such policy. base is the list of the plan.
func (e *evaluation) first(base []*compiled, a Action) (c *compiled, exist bool) {
	m := merge{base: base, named: e.named, action: a}
	for c := m.next(); c != nil; c = m.next() {
		exist = true
		if c.matches(&e.subject) {
			return c, true
		}
	}
	return nil, exist
}

// dryRun logs every dry-run policy of an action that matches. It reports
// whether there is any such policy and whether one matched.
func (e *evaluation) dryRun(base []*compiled, a Action, text string) (exist, matched bool) {
	m := merge{base: base, named: e.named, action: a, dryRun: true}
	for c := m.next(); c != nil; c = m.next() {
		exist = true
		if c.matches(&e.subject) {
			matched = true
			e.say(text, c.key)
		}
	}
	return exist, matched
}

// say logs one step, with the policy if there is one.
func (e *evaluation) say(text, policy string) {
	switch {
	case e.log == nil:
	case policy == "":
		e.log.LogAttrs(context.Background(), e.level, text)
	default:
		e.log.LogAttrs(context.Background(), e.level, text, slog.String("policy", policy))
	}
}

// merge walks, by key and each policy once, the policies of one action in a
// list of the plan and in the named ones.
type merge struct {
	base, named []*compiled
	action      Action
	dryRun      bool
}

// next returns nil at the end.
func (m *merge) next() *compiled {
	for len(m.named) > 0 {
		p := m.named[0].policy
		if p.Action == m.action && p.DryRun == m.dryRun {
			break
		}
		m.named = m.named[1:]
	}
	switch {
	case len(m.base) == 0 && len(m.named) == 0:
		return nil
	case len(m.named) == 0:
		return pop(&m.base)
	case len(m.base) == 0:
		return pop(&m.named)
	}
	order := byKey(m.base[0], m.named[0])
	if order > 0 {
		return pop(&m.named)
	}
	if order == 0 { // a policy that applies anyway and is named too
		pop(&m.named)
	}
	return pop(&m.base)
}

func pop(list *[]*compiled) *compiled {
	c := (*list)[0]
	*list = (*list)[1:]
	return c
}
