package workload

import (
	"slices"
	"testing"
)

func TestStore_ServicesNamed(t *testing.T) {
	s := NewStore(Config{})
	first := &Service{Namespace: "b", Hostname: "a.example.com"}
	second := &Service{Namespace: "a", Hostname: "a.example.com", Visibility: VisibilityNamespace}
	s.Apply(Update{Services: []*Service{first, {Namespace: "a", Hostname: "*.example.com"}, second}})
	list := make([]*Service, 0, 4)
	if got := s.ServicesNamed([]byte("a.example.com"), list); !slices.Equal(got, []*Service{first, second}) {
		t.Errorf("ServicesNamed() = %v, want both in the order of their storing", got)
	}
	if got := s.ServicesNamed([]byte("b.example.com"), list); len(got) != 0 {
		t.Errorf("ServicesNamed() of another name = %v, want none", got)
	}
	host := []byte("a.example.com")
	if n := testing.AllocsPerRun(100, func() { s.ServicesNamed(host, list) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
