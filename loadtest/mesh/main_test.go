package mesh

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"

	"ztunnel/proxy/needs"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// newMesh is a mesh that ends with the test.
func newMesh(t *testing.T) *Mesh {
	t.Helper()
	needs.Root(t)
	m, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	return m
}

func addNode(t *testing.T, m *Mesh, name string) *Node {
	t.Helper()
	n, err := m.AddNode(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func addPod(t *testing.T, n *Node, name string) *Pod {
	t.Helper()
	p, err := n.AddPod(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// golden compares got with a file, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant:\n%s", path, got, want)
	}
}
