package logging

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

const (
	// targetPrefix is what the targets of the reference begin with, except for
	// the literal ones. Filters may leave it out.
	targetPrefix = "ztunnel::"

	// dnsServerClause is part of every start-up filter of the reference. It
	// names a library that does not exist here, and is kept because tools show
	// and compare the filter as text.
	dnsServerClause = "hickory_server::server=off"

	maxDirectives   = 256
	maxTargetLength = 128
)

// directive sets the level of all scopes whose target begins with target. The
// target "" is the default.
type directive struct {
	target string
	level  slog.Level
}

// name is the target without the prefix that filters may leave out; two
// directives with the same name are about the same scopes.
func (d directive) name() string { return strings.TrimPrefix(d.target, targetPrefix) }

// filter is a set of directives with different names, the most specific first.
// It is never changed in place.
type filter []directive

// parseStartFilter reads a filter as the environment gives it: clauses
// "level", "target=level" or "target" (= trace), in any case, levels also as
// numbers. The result contains dnsServerClause.
func parseStartFilter(s string) (filter, error) {
	f := filter(nil).with([]directive{{target: "hickory_server::server", level: levelOff}})
	ds, err := parseClauses(s, func(clause string) (directive, error) {
		if level, ok := parseLooseLevel(clause); ok {
			return directive{level: level}, nil
		}
		target, levelText, ok := splitClause(clause)
		if !ok {
			return directive{target: clause, level: LevelTrace}, checkTarget(clause)
		}
		return parseTargetLevel(target, levelText)
	})
	if err != nil {
		return nil, err
	}
	return f.with(ds), nil
}

// parseAddedClauses reads the clauses of a change at run time: "level" in lower
// case or "target=level". A target alone is refused, because it is more often
// a level that is not one.
func parseAddedClauses(s string) ([]directive, error) {
	return parseClauses(s, func(clause string) (directive, error) {
		if level, ok := parseLevel(clause); ok {
			return directive{level: level}, nil
		}
		target, levelText, ok := splitClause(clause)
		if !ok {
			return directive{}, fmt.Errorf("level %s is invalid", clause)
		}
		return parseTargetLevel(target, levelText)
	})
}

// parseClauses reads a list with commas. Empty clauses are skipped.
func parseClauses(s string, parse func(string) (directive, error)) ([]directive, error) {
	var ds []directive
	for clause := range strings.SplitSeq(s, ",") {
		clause = strings.TrimSpace(clause)
		if clause == "" {
			continue
		}
		d, err := parse(clause)
		if err != nil {
			return nil, err
		}
		if ds = append(ds, d); len(ds) > maxDirectives {
			return nil, errors.New("too many clauses")
		}
	}
	return ds, nil
}

// splitClause splits "target=level", or "target:level" at the last colon that
// is not part of "::". The colon is what istioctl's help promises and the
// reference refuses.
func splitClause(clause string) (target, level string, ok bool) {
	if target, level, ok = strings.Cut(clause, "="); ok {
		return target, level, true
	}
	for i := len(clause) - 1; i >= 0; i-- {
		if clause[i] != ':' {
			continue
		}
		if i > 0 && clause[i-1] == ':' {
			i--
			continue
		}
		return clause[:i], clause[i+1:], true
	}
	return "", "", false
}

func parseTargetLevel(target, levelText string) (directive, error) {
	if err := checkTarget(target); err != nil {
		return directive{}, err
	}
	level, ok := parseLooseLevel(levelText)
	if !ok {
		return directive{}, fmt.Errorf("level %q of target %s is invalid", levelText, target)
	}
	return directive{target: target, level: level}, nil
}

// checkTarget keeps out what could not be written down again as a filter.
func checkTarget(target string) error {
	if target == "" || target == targetPrefix || len(target) > maxTargetLength {
		return fmt.Errorf("target %.130q is invalid", target)
	}
	for i := 0; i < len(target); i++ {
		switch c := target[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.':
		case c == ':' && i+1 < len(target) && target[i+1] == ':':
			i++
		default:
			return fmt.Errorf("target %q is invalid", target)
		}
	}
	return nil
}

// with is the filter with directives added; later ones replace earlier ones of
// the same name.
func (f filter) with(ds []directive) filter {
	result := slices.Clone(f)
	for _, d := range ds {
		i := slices.IndexFunc(result, func(old directive) bool { return old.name() == d.name() })
		if i < 0 {
			result = append(result, d)
			continue
		}
		result[i] = d
	}
	slices.SortFunc(result, func(a, b directive) int {
		if c := cmp.Compare(len(b.target), len(a.target)); c != 0 {
			return c
		}
		return cmp.Compare(b.target, a.target)
	})
	return result
}

// String is the filter as the admin page shows it, the default level last.
func (f filter) String() string {
	var b strings.Builder
	for i, d := range f {
		if i > 0 {
			b.WriteByte(',')
		}
		if d.target != "" {
			b.WriteString(d.target)
			b.WriteByte('=')
		}
		b.WriteString(filterLevelName(d.level))
	}
	return b.String()
}

// level is the lowest level that a scope logs: that of the directive with the
// longest target that its own begins with, else the default, else off. name is
// the scope's name, target its name as the reference has it.
func (f filter) level(name, target string) slog.Level {
	level, length := levelOff, -len(targetPrefix)-1
	for _, d := range f {
		// How much of the name the directive covers, so that "proxy" is as
		// specific as "ztunnel::proxy" and more so than "ztunnel".
		covers := -len(targetPrefix) - 1
		if strings.HasPrefix(target, d.target) {
			covers = len(d.target) - (len(target) - len(name))
		}
		if strings.HasPrefix(name, d.target) && d.target != "" {
			covers = max(covers, len(d.target))
		}
		if d.target == "" {
			covers = -len(targetPrefix)
		}
		if covers > length {
			level, length = d.level, covers
		}
	}
	return level
}
