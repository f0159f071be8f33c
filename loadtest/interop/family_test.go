package interop

import (
	"net/netip"
	"testing"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
)

// Addresses in the form of logs, of both IP versions.
func TestFamily(t *testing.T) {
	pod := &cluster.Pod{Pod: &mesh.Pod{Addr: netip.MustParseAddr("10.64.1.10"), Addr6: netip.MustParseAddr("fd64::1:a")}}
	for i, want := range []struct{ hbone, from, loopback string }{
		{"10.64.1.10:15008", "10.64.1.10:…", "127.0.0.1"}, {"[fd64::1:a]:15008", "[fd64::1:a]:…", "::1"},
	} {
		f := families[i]
		if f.hbone(pod) != want.hbone || f.from(pod) != want.from || f.loopback().String() != want.loopback {
			t.Errorf("%s: HBONE at %s, from %s, loopback %s, want %+v", f.name, f.hbone(pod), f.from(pod), f.loopback(), want)
		}
		if !(fields{"src.addr=" + f.from(pod)}).in("x\tsrc.addr=" + f.at(pod, 40000).String() + " y=z") {
			t.Errorf("%s: a log line with the pod's address is not found", f.name)
		}
	}
}
