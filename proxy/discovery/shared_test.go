package discovery

import (
	"net/netip"
	"testing"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/api/workloadapi"
)

// An address that several workloads have is that of the one that was sent last, also if that has not changed and came in the
// version that is in force already.
func TestSharedAddress(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open()
	addr := netip.MustParseAddr("10.0.0.1")
	claim := func(name, version string) *discoveryapi.Resource {
		p := pod(name, name)
		p.Addresses = [][]byte{addr.AsSlice()}
		r := resource(t, p)
		r.Version = version
		return r
	}
	first, second, alone := claim("first", "1111111111111111"), claim("second", "2222222222222222"), resource(t, &workloadapi.Workload{Uid: uid("alone")})
	alone.Version = "3333333333333333"
	for _, step := range []struct {
		send []*discoveryapi.Resource
		want string
	}{
		{[]*discoveryapi.Resource{first, alone}, "first"},
		{[]*discoveryapi.Resource{second}, "second"},
		{[]*discoveryapi.Resource{first}, "first"},
		{[]*discoveryapi.Resource{alone}, "first"},
		{[]*discoveryapi.Resource{first, second, alone}, "second"},
		{[]*discoveryapi.Resource{second, first}, "first"},
	} {
		st.Send(t, &discoveryapi.DeltaDiscoveryResponse{TypeUrl: AddressType, Nonce: "n", Resources: step.send})
		if why := st.Recv(t).GetErrorDetail().GetMessage(); why != "" {
			t.Fatalf("rejected: %s", why)
		}
		if got := w.store.Workload("", addr); got == nil || got.Name != step.want {
			t.Errorf("after %v the address is that of %v, want %s", step.send, got, step.want)
		}
	}
}
