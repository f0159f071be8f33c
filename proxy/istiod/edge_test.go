package istiod_test

import (
	"path/filepath"
	"testing"

	"ztunnel/proxy/istiod"
)

// Roots that are given never change; those of a file change with its content, each time, and not otherwise.
func TestRootsVersion(t *testing.T) {
	one, two := newAuthority(t).pem(), newAuthority(t).pem()
	version := func(c *istiod.Channel) [32]byte {
		t.Helper()
		v, err := c.RootsVersion()
		if err != nil {
			t.Fatalf("RootsVersion: %v", err)
		}
		return v
	}
	for name, roots := range map[string]istiod.Roots{"given": {PEM: one}, "of the system": {System: true}} {
		c, err := istiod.New(istiod.Config{Address: address, Roots: roots})
		if err != nil {
			t.Fatal(err)
		}
		if first := version(c); first != [32]byte{} || version(c) != first {
			t.Errorf("roots %s have the version %x, want none", name, first)
		}
	}
	file := filepath.Join(t.TempDir(), "root-cert.pem")
	write(t, file, one)
	c, err := istiod.New(istiod.Config{Address: address, Roots: istiod.Roots{File: file}})
	if err != nil {
		t.Fatal(err)
	}
	before := version(c)
	if before == [32]byte{} || version(c) != before {
		t.Error("a file that stays as it is has changing versions, or none")
	}
	for range 3 {
		write(t, file, two)
		after := version(c)
		if after == before || version(c) != after {
			t.Error("after a change of the file the version is the same, or another one each time")
		}
		write(t, file, one)
		if version(c) != before {
			t.Error("the former content has another version than before")
		}
	}
}
