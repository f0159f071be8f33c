package logging

import (
	"log/slog"
	"math"
	"strings"
)

// LevelTrace is the level below debug, which the reference calls trace.
const LevelTrace = slog.Level(-8)

// levelOff is above all levels that a line can have.
const levelOff = slog.Level(math.MaxInt32)

// The index of a level in counters and names.
const (
	indexTrace = iota
	indexDebug
	indexInfo
	indexWarn
	indexError
	numLevels
)

var levelNames = [numLevels]string{"trace", "debug", "info", "warn", "error"}

// levelIndex is the index of the named level that a level belongs to: a level
// between two names belongs to the lower one.
func levelIndex(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return indexError
	case l >= slog.LevelWarn:
		return indexWarn
	case l >= slog.LevelInfo:
		return indexInfo
	case l >= slog.LevelDebug:
		return indexDebug
	default:
		return indexTrace
	}
}

// filterLevelName is the name of a level in a filter.
func filterLevelName(l slog.Level) string {
	if l == levelOff {
		return "off"
	}
	return levelNames[levelIndex(l)]
}

// parseLevel reads the name of a level exactly, in lower case.
func parseLevel(s string) (slog.Level, bool) {
	switch s {
	case "off":
		return levelOff, true
	case "error":
		return slog.LevelError, true
	case "warn":
		return slog.LevelWarn, true
	case "info":
		return slog.LevelInfo, true
	case "debug":
		return slog.LevelDebug, true
	case "trace":
		return LevelTrace, true
	}
	return 0, false
}

// parseLooseLevel also takes other cases, and the numbers 0 (off) to 5 (trace).
func parseLooseLevel(s string) (slog.Level, bool) {
	if len(s) == 1 && s[0] >= '0' && s[0] <= '5' {
		return [...]slog.Level{levelOff, slog.LevelError, slog.LevelWarn, slog.LevelInfo, slog.LevelDebug, LevelTrace}[s[0]-'0'], true
	}
	return parseLevel(strings.ToLower(s))
}
