package config

import (
	"errors"
	"math"
	"math/big"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// errDuration is the one reason for a duration that is not taken: the grammar
// has too many ways to go wrong for more precision to help.
var errDuration = errors.New("must be a duration such as 90s, 1h30m or 2d, or a number of seconds, not negative and below 292 years")

// maxNumeric bounds the text of durations and quantities, and with it the
// cost of exact arithmetic.
const maxNumeric = 64

// units are the units of a duration in nanoseconds, in lower case.
var units = map[string]int64{
	"ns": 1, "nsec": 1, "nanosecond": 1, "nanoseconds": 1,
	"us": 1e3, "µs": 1e3, "μs": 1e3, "usec": 1e3, "µsec": 1e3, "microsecond": 1e3, "microseconds": 1e3,
	"ms": 1e6, "msec": 1e6, "millisecond": 1e6, "milliseconds": 1e6,
	"s": 1e9, "sec": 1e9, "secs": 1e9, "second": 1e9, "seconds": 1e9,
	"m": 60e9, "min": 60e9, "mins": 60e9, "minute": 60e9, "minutes": 60e9,
	"h": 3600e9, "hr": 3600e9, "hrs": 3600e9, "hour": 3600e9, "hours": 3600e9,
	"d": 24 * 3600e9, "day": 24 * 3600e9, "days": 24 * 3600e9,
	"w": 7 * 24 * 3600e9, "week": 7 * 24 * 3600e9, "weeks": 7 * 24 * 3600e9,
	"mon": 30 * 24 * 3600e9, "month": 30 * 24 * 3600e9, "months": 30 * 24 * 3600e9,
	"y": 365 * 24 * 3600e9, "year": 365 * 24 * 3600e9, "years": 365 * 24 * 3600e9,
}

// parseDuration parses what the reference takes, and what Go takes:
//
//	duration = [ "+" ] product { [ "+" ] product }
//	product  = value { "*" value }          at most one with a unit
//	value    = decimal [ unit ]             without any unit: seconds
//
// White space may stand between the parts. Units are taken in any case, but
// for "M" there is no other meaning than minutes. Fractions of a nanosecond
// are cut off.
func parseDuration(s string) (time.Duration, error) {
	if len(s) > maxNumeric {
		return 0, errDuration
	}
	p := durationParser{rest: s}
	sum := new(big.Rat)
	for first := true; first || strings.TrimLeft(p.rest, blanks) != ""; {
		before := p.rest
		p.space()
		if p.take('+') {
			p.space()
		}
		if !first && p.rest == before && !p.hasUnit {
			return 0, errDuration // two numbers without anything between
		}
		first = false
		product, ok := p.product()
		if !ok {
			return 0, errDuration
		}
		sum.Add(sum, product)
	}
	whole := new(big.Int).Quo(sum.Num(), sum.Denom())
	if !whole.IsInt64() || whole.Int64() == math.MaxInt64 {
		return 0, errDuration
	}
	return time.Duration(whole.Int64()), nil
}

// blanks may stand between the parts of a duration.
const blanks = " \t"

// durationParser consumes its text from the left.
type durationParser struct {
	rest    string
	hasUnit bool // the last value had one
}

// product parses one product and returns it in nanoseconds.
func (p *durationParser) product() (*big.Rat, bool) {
	result, hasUnit, ok := p.value()
	for ok {
		before := p.rest
		p.space()
		if !p.take('*') {
			p.rest = before
			break
		}
		p.space()
		factor, factorHasUnit, good := p.value()
		if !good || hasUnit && factorHasUnit {
			return nil, false
		}
		hasUnit = hasUnit || factorHasUnit
		result.Mul(result, factor)
	}
	if ok && !hasUnit {
		result.Mul(result, new(big.Rat).SetInt64(int64(time.Second)))
	}
	return result, ok
}

// value parses a number and its unit, and returns the number of nanoseconds,
// or the bare number if it has no unit.
func (p *durationParser) value() (number *big.Rat, hasUnit, ok bool) {
	number, p.rest, ok = decimal(p.rest)
	if !ok {
		return nil, false, false
	}
	before := p.rest
	p.space()
	end := strings.IndexFunc(p.rest, func(r rune) bool { return !unicode.IsLetter(r) })
	if end < 0 {
		end = len(p.rest)
	}
	if end == 0 {
		p.rest, p.hasUnit = before, false
		return number, false, true
	}
	p.hasUnit = true
	nanos, ok := units[strings.ToLower(p.rest[:end])]
	p.rest = p.rest[end:]
	return number.Mul(number, new(big.Rat).SetInt64(nanos)), true, ok
}

func (p *durationParser) take(b byte) bool {
	if p.rest == "" || p.rest[0] != b {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *durationParser) space() { p.rest = strings.TrimLeft(p.rest, blanks) }

// decimal parses digits with at most one point, at least one digit, no sign
// and no exponent, at the start of s, and returns what follows it.
func decimal(s string) (number *big.Rat, rest string, ok bool) {
	end, digits, points := 0, 0, 0
	for ; end < len(s) && s[end] < utf8.RuneSelf; end++ {
		if s[end] >= '0' && s[end] <= '9' {
			digits++
		} else if s[end] == '.' && points == 0 {
			points++
		} else {
			break
		}
	}
	if digits == 0 {
		return nil, s, false
	}
	number, ok = new(big.Rat).SetString(s[:end])
	return number, s[end:], ok
}
