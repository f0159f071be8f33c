package promqlcheck

import (
	"fmt"
	"strings"
)

// kind is what a token is.
type kind uint8

const (
	word     kind = iota // a name: metric, label, function or keyword
	number               // also a duration
	text                 // a string, with its quotes
	variable             // $name or ${name}, which Grafana fills in
	symbol               // a bracket, comma or operator
)

// token is one word of an expression.
type token struct {
	kind kind
	text string
}

// symbols, the longer ones first.
var symbols = []string{"=~", "!~", "!=", "==", "<=", ">=", "(", ")", "{", "}", "[", "]", ",", "+", "-", "*", "/", "%", "^", "=", "<", ">", ":"}

// tokenize splits an expression. Comments are left out.
func tokenize(expr string) ([]token, error) {
	var tokens []token
	for at := 0; at < len(expr); {
		rest := expr[at:]
		length := 1
		switch c := rest[0]; {
		case c == ' ' || c == '\t' || c == '\n':
		case c == '#':
			length = span(rest, func(c byte) bool { return c != '\n' })
		case c == '"' || c == '\'' || c == '`':
			length = quoted(rest)
			if length == 0 {
				return nil, fmt.Errorf("no end of the string %s", rest)
			}
			tokens = append(tokens, token{text, rest[:length]})
		case c == '$':
			length = 1 + span(rest[1:], func(c byte) bool { return isWord(c) || c == '{' || c == '}' })
			tokens = append(tokens, token{variable, rest[:length]})
		case isDigit(c):
			length = span(rest, func(c byte) bool { return isWord(c) || c == '.' })
			tokens = append(tokens, token{number, rest[:length]})
		case isWord(c):
			length = span(rest, func(c byte) bool { return isWord(c) || c == ':' })
			tokens = append(tokens, token{word, rest[:length]})
		default:
			found := ""
			for _, s := range symbols {
				if strings.HasPrefix(rest, s) {
					found = s
					break
				}
			}
			if found == "" {
				return nil, fmt.Errorf("unexpected character %q", c)
			}
			length = len(found)
			tokens = append(tokens, token{symbol, found})
		}
		at += length
	}
	return tokens, nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || isDigit(c)
}

// span is the length of the prefix whose bytes are all wanted.
func span(s string, wanted func(byte) bool) int {
	for i := range len(s) {
		if !wanted(s[i]) {
			return i
		}
	}
	return len(s)
}

// quoted is the length of the string that s begins with, 0 if it has no end.
func quoted(s string) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && s[0] != '`':
			i++
		case s[i] == s[0]:
			return i + 1
		}
	}
	return 0
}
