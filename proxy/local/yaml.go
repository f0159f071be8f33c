package local

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// aliasBudget is how many values the aliases of a document may add to those that are written out.
const aliasBudget = 100_000

// FieldError says what is wrong with one field of the configuration.
type FieldError struct {
	Path string // e.g. workloads[2].workloadIps[0]; "" for the whole document
	Line int    // in the document, from 1; 0 if unknown
	Err  error
}

// Error returns "PATH (line N): " and what is wrong.
func (e *FieldError) Error() string {
	switch {
	case e.Path == "" && e.Line == 0:
		return e.Err.Error()
	case e.Path == "":
		return fmt.Sprintf("line %d: %v", e.Line, e.Err)
	}
	return fmt.Sprintf("%s (line %d): %v", e.Path, e.Line, e.Err)
}

// Unwrap returns what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

// value is a place in the document.
type value struct {
	n      *yaml.Node
	path   string
	budget *int // values that may still be looked at
}

// parse returns the only document of the data.
func parse(data []byte) (value, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return value{}, &FieldError{Err: errors.New("the document is empty; an empty configuration is {}")}
	} else if err != nil {
		return value{}, fmt.Errorf("parse: %w", err)
	}
	if err := dec.Decode(&second); err == nil {
		return value{}, &FieldError{Line: second.Line, Err: errors.New("more than one document")}
	} else if !errors.Is(err, io.EOF) {
		return value{}, fmt.Errorf("parse: %w", err)
	}
	// A value that is written out takes at least one byte, so only aliases can use more than this.
	budget := len(data) + aliasBudget
	return value{n: &doc, budget: &budget}.child(doc.Content[0], "")
}

// child is a value within v; aliases are followed.
func (v value) child(n *yaml.Node, path string) (value, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	c := value{n: n, path: path, budget: v.budget}
	if *v.budget--; *v.budget < 0 {
		return c, c.errorf("the aliases of the document stand for too many values")
	}
	return c, nil
}

func (v value) errorf(format string, args ...any) error {
	return &FieldError{Path: v.path, Line: v.n.Line, Err: fmt.Errorf(format, args...)}
}

// kind names what v is, for errors.
func (v value) kind() string {
	switch v.n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	}
	if v.isNull() {
		return "nothing"
	}
	return strconv.Quote(v.n.Value)
}

// untagged refuses a tag such as !Exact where it means nothing.
func (v value) untagged() error {
	if t := v.n.Tag; strings.HasPrefix(t, "!") && !strings.HasPrefix(t, "!!") {
		return v.errorf("the tag %s means nothing here", t)
	}
	return nil
}

func (v value) isNull() bool { return v.n.Kind == yaml.ScalarNode && v.n.ShortTag() == "!!null" }

// field is one key of a map.
type field struct {
	name     string
	required bool
	set      func(value) error
}

func required(name string, set func(value) error) field { return field{name, true, set} }

func optional(name string, set func(value) error) field { return field{name, false, set} }

// object reads a map of known keys. An optional key without a value counts as absent.
func (v value) object(fields ...field) error {
	seen := make([]bool, len(fields))
	err := v.pairs(func(key string, item value) error {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == key })
		if i < 0 {
			return item.errorf("unknown field; known are %s", names(fields))
		}
		if item.isNull() && !fields[i].required {
			return nil
		}
		seen[i] = true
		return fields[i].set(item)
	})
	if err != nil {
		return err
	}
	for i, f := range fields {
		if f.required && !seen[i] {
			missing := value{n: v.n, path: join(v.path, f.name)}
			return missing.errorf("missing")
		}
	}
	return nil
}

func names(fields []field) string {
	list := make([]string, len(fields))
	for i, f := range fields {
		list[i] = f.name
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// pairs calls f for each key of a map and its value, in order. A key may be there once.
func (v value) pairs(f func(key string, item value) error) error {
	if err := v.untagged(); err != nil {
		return err
	}
	if v.n.Kind != yaml.MappingNode {
		return v.errorf("expected a map, got %s", v.kind())
	}
	seen := make(map[string]bool, len(v.n.Content)/2)
	for i := 0; i+1 < len(v.n.Content); i += 2 {
		k, err := v.child(v.n.Content[i], v.path)
		if err != nil {
			return err
		}
		key, err := k.text()
		if err != nil {
			return err
		}
		item, err := v.child(v.n.Content[i+1], join(v.path, key))
		if err != nil {
			return err
		}
		if seen[key] {
			return item.errorf("is there twice")
		}
		seen[key] = true
		if err := f(key, item); err != nil {
			return err
		}
	}
	return nil
}

// join appends a key to a path. A key that is no plain word is quoted.
func join(path, key string) string {
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || strings.ContainsRune(".[]\"/:", r) }) || key == "" {
		return path + "[" + strconv.Quote(key) + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// list reads a list.
func (v value) list(f func(item value) error) error {
	if err := v.untagged(); err != nil {
		return err
	}
	if v.n.Kind != yaml.SequenceNode {
		return v.errorf("expected a list, got %s", v.kind())
	}
	for i, n := range v.n.Content {
		item, err := v.child(n, v.path+"["+strconv.Itoa(i)+"]")
		if err != nil {
			return err
		}
		if err := f(item); err != nil {
			return err
		}
	}
	return nil
}

// text reads a scalar as it is written: an unquoted number is as good as a string.
func (v value) text() (string, error) {
	if err := v.untagged(); err != nil {
		return "", err
	}
	if v.n.Kind != yaml.ScalarNode || v.isNull() {
		return "", v.errorf("expected a plain value, got %s", v.kind())
	}
	return v.n.Value, nil
}

func (v value) uint(bits int) (uint64, error) {
	s, err := v.text()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, bits)
	if err != nil {
		return 0, v.errorf("expected a number from 0 to %d, got %q", uint64(1)<<bits-1, s)
	}
	return n, nil
}

// readAll reads a list of one kind of value.
func readAll[T any](v value, read func(value) (T, error)) ([]T, error) {
	var out []T
	err := v.list(func(item value) error {
		one, err := read(item)
		if err == nil {
			out = append(out, one)
		}
		return err
	})
	return out, err
}

// The following make setters of fields.

// into reads one value into dst.
func into[T any](dst *T, read func(value) (T, error)) func(value) error {
	return func(v value) error {
		one, err := read(v)
		if err == nil {
			*dst = one
		}
		return err
	}
}

// intoPtr reads one value and points dst at it.
func intoPtr[T any](dst **T, read func(value) (T, error)) func(value) error {
	return func(v value) error {
		one, err := read(v)
		if err == nil {
			*dst = &one
		}
		return err
	}
}

// intoList reads a list into dst.
func intoList[T any](dst *[]T, read func(value) (T, error)) func(value) error {
	return func(v value) error {
		list, err := readAll(v, read)
		if err == nil {
			*dst = list
		}
		return err
	}
}

func readText(v value) (string, error) { return v.text() }

func readBool(v value) (bool, error) {
	switch s, err := v.text(); {
	case err == nil && s == "true":
		return true, nil
	case err == nil && s == "false":
		return false, nil
	}
	return false, v.errorf("expected true or false, got %s", v.kind())
}

func readPort(v value) (uint16, error) {
	n, err := v.uint(16)
	return uint16(n), err
}

func readUint32(v value) (uint32, error) {
	n, err := v.uint(32)
	return uint32(n), err
}

// readEnum reads the spelling of one of the values.
func readEnum[T fmt.Stringer](values ...T) func(value) (T, error) {
	return func(v value) (T, error) {
		s, err := v.text()
		if err == nil {
			for _, candidate := range values {
				if candidate.String() == s {
					return candidate, nil
				}
			}
		}
		var none T
		spellings := make([]string, len(values))
		for i, candidate := range values {
			spellings[i] = candidate.String()
		}
		return none, v.errorf("expected one of %s, got %s", strings.Join(spellings, ", "), v.kind())
	}
}
