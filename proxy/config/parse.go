package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A parser turns the value of a variable into T. Its error is only the reason:
// it says what is allowed and does not repeat the value, which may be secret.
type parser[T any] func(value string) (T, error)

func text(value string) (string, error)   { return value, nil }
func secret(value string) (Secret, error) { return Secret(value), nil }

// isExactly returns a parser for switches that anything but one value leaves
// off.
func isExactly(on string) parser[bool] {
	return func(value string) (bool, error) { return value == on, nil }
}

// present is the parser of variables whose value does not matter.
func present(string) (bool, error) { return true, nil }

func boolean(value string) (bool, error) {
	switch value {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New("must be true or false")
}

// otelBoolean takes what OpenTelemetry takes: any case.
func otelBoolean(value string) (bool, error) { return boolean(strings.ToLower(value)) }

// number returns a parser for plain decimals from low to high.
func number[T uint16 | uint32 | uint64 | int](low, high uint64) parser[T] {
	return func(value string) (T, error) {
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("must be a whole number from %d to %d", low, high)
		}
		return T(n), nil
	}
}

// positive is the parser of durations of which 0 would make no sense.
func positive(value string) (time.Duration, error) {
	d, err := parseDuration(value)
	if err == nil && d == 0 {
		return 0, errors.New("must be a duration greater than zero")
	}
	return d, err
}

// milliseconds is the parser of durations as OpenTelemetry writes them.
func milliseconds(value string) (time.Duration, error) {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil || n == 0 {
		return 0, errors.New("must be a whole number of milliseconds, at least 1")
	}
	return time.Duration(n) * time.Millisecond, nil
}

// oneOf returns a parser for a closed set of words.
func oneOf[T ~string](words ...T) parser[T] {
	return func(value string) (T, error) {
		if slices.Contains(words, T(value)) {
			return T(value), nil
		}
		return "", fmt.Errorf("must be one of %s", join(words))
	}
}

// listOf returns a parser for a comma separated list, not empty, whose
// elements check takes. White space around elements is removed.
func listOf(check func(element string) error) parser[[]string] {
	return func(value string) ([]string, error) {
		var list []string
		for element := range strings.SplitSeq(value, ",") {
			element = strings.TrimSpace(element)
			if element == "" {
				return nil, errors.New("must be a comma separated list without empty elements")
			}
			if err := check(element); err != nil {
				return nil, err
			}
			list = append(list, element)
		}
		return list, nil
	}
}

// wordsOf returns a parser for a list of words of a closed set, sorted and
// without duplicates.
func wordsOf(words ...string) parser[[]string] {
	parse := listOf(func(word string) error {
		if !slices.Contains(words, word) {
			return fmt.Errorf("must list some of %s", join(words))
		}
		return nil
	})
	return func(value string) ([]string, error) {
		list, err := parse(value)
		slices.Sort(list)
		return slices.Compact(list), err
	}
}

// principalPattern checks a match of principals as AuthorizationPolicy writes
// it.
func principalPattern(pattern string) error {
	if strings.HasPrefix(pattern, "spiffe://") {
		return errors.New("must be principals without spiffe://")
	}
	inner := strings.TrimSuffix(pattern, "*")
	if inner == pattern {
		inner = strings.TrimPrefix(pattern, "*")
	}
	if strings.Contains(inner, "*") {
		return errors.New("must be principals of the form NAME, PREFIX*, *SUFFIX or *")
	}
	return nil
}

func mode(value string) (Mode, error) {
	switch value {
	case "shared":
		return Shared, nil
	case "dedicated":
		return Dedicated, nil
	}
	return 0, errors.New("PROXY_MODE must be one of dedicated, shared")
}

// addrPort parses IP:PORT.
func addrPort(value string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddrPort(value)
	if err != nil {
		return netip.AddrPort{}, errors.New("must be IP:PORT")
	}
	return addr, nil
}

// webURL parses an absolute http or https URL.
func webURL(value string) (string, error) {
	if u, err := url.Parse(value); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("must be an http or https URL")
	}
	return value, nil
}

// instanceIP parses an IP address but keeps its text.
func instanceIP(value string) (string, error) {
	if _, err := netip.ParseAddr(value); err != nil {
		return "", errors.New("must be an IP address")
	}
	return value, nil
}

// pairs parses name=value,name=value as OpenTelemetry writes it, with values
// percent-encoded. The error does not repeat any of it.
func pairs(value string) ([][2]string, error) {
	reason := errors.New("must be a list NAME=VALUE,NAME=VALUE with percent-encoded values")
	var list [][2]string
	for element := range strings.SplitSeq(value, ",") {
		if strings.TrimSpace(element) == "" {
			continue
		}
		name, encoded, ok := strings.Cut(element, "=")
		name = strings.TrimSpace(name)
		decoded, err := url.PathUnescape(strings.TrimSpace(encoded))
		if !ok || name == "" || err != nil {
			return nil, reason
		}
		list = append(list, [2]string{name, decoded})
	}
	return list, nil
}

// otelHeaders parses the headers of an exporter.
func otelHeaders(value string) ([]Header, error) {
	list, err := pairs(value)
	if err != nil {
		return nil, err
	}
	var headers []Header
	for _, pair := range list {
		name := strings.ToLower(pair[0])
		if !isHeaderName(name) || !isHeaderValue(pair[1]) {
			return nil, errors.New("must hold names of letters, digits, '-', '_' and '.', and values of printable ASCII")
		}
		headers = append(headers, Header{Name: name, Value: Secret(pair[1])})
	}
	return headers, nil
}

// otelAttributes parses resource attributes.
func otelAttributes(value string) (map[string]string, error) {
	list, err := pairs(value)
	if err != nil {
		return nil, err
	}
	attributes := make(map[string]string, len(list))
	for _, pair := range list {
		attributes[pair[0]] = pair[1]
	}
	return attributes, nil
}

// isHeaderName tells whether gRPC can send metadata of this name as text.
func isHeaderName(name string) bool {
	if name == "" || strings.HasSuffix(name, "-bin") {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// isHeaderValue tells whether gRPC can send metadata of this value as text.
func isHeaderValue(value string) bool {
	for i := range len(value) {
		if value[i] < 0x20 || value[i] > 0x7e {
			return false
		}
	}
	return true
}

// join lists words for a reader.
func join[T ~string](words []T) string {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = string(w)
	}
	return strings.Join(list, ", ")
}
