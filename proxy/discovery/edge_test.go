package discovery

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/api/securityapi"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/workload"
)

var webKey = workload.NamespacedHostname{Namespace: "shop", Hostname: "web.host"}

// endpoints are so many workloads of the service webKey, each with an address.
func endpoints(name string, n int) (list []proto.Message) {
	for i := range n {
		w := pod(fmt.Sprint(name, i), "web")
		w.Addresses = [][]byte{{1, name[0], byte(i >> 8), byte(i)}}
		w.Services = map[string]*workloadapi.PortList{webKey.String(): {Ports: []*workloadapi.Port{{ServicePort: 80, TargetPort: 8080}}}}
		list = append(list, w)
	}
	return list
}

func (w *world) endpointCount() int {
	svc := w.store.Service(webKey)
	if svc == nil {
		return 0
	}
	return len(w.store.Endpoints(svc))
}

// Wherever a service stands among its workloads, it gets all of them at once, as it does those that come or go later: nobody
// sees some.
func TestServiceAmongItsWorkloads(t *testing.T) {
	const n = 500
	for name, at := range map[string]int{"first": 0, "in the middle": n / 2, "last": n} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			st := w.open()
			var done atomic.Bool
			var reading sync.WaitGroup
			reading.Go(func() {
				for !done.Load() {
					if got := w.endpointCount(); got%n != 0 {
						t.Errorf("a reader saw %d endpoints, want those of whole responses, %d each", got, n)
						return
					}
				}
			})
			list := endpoints("w", n)
			list = slices.Insert(list, at, proto.Message(&workloadapi.Service{Namespace: webKey.Namespace, Hostname: webKey.Hostname}))
			var gone []string
			for i := range n {
				gone = append(gone, uid(fmt.Sprint("w", i)))
			}
			for i, want := range []int{n, 2 * n, n} {
				var got string
				switch i {
				case 0:
					got = w.push(st, AddressType, list)
				case 1:
					got = w.push(st, AddressType, endpoints("more", n))
				case 2:
					got = w.push(st, AddressType, nil, gone...)
				}
				if n := w.endpointCount(); n != want || got != "" {
					t.Errorf("%d endpoints after response %d, rejected %q, want %d", n, i, got, want)
				}
			}
			done.Store(true)
			reading.Wait()
		})
	}
}

// The first stream claims nothing. After a response of which one resource could not be decoded, the next one claims the other
// with its version, and nothing of the type of which nothing came.
func TestClaimsAfterAResponseInPart(t *testing.T) {
	w := newWorld(t, nil)
	st := w.plane.Accept(t)
	for range 2 {
		if r := st.Recv(t); len(r.GetInitialResourceVersions()) > 0 {
			t.Errorf("%s: the first stream claims %v, want nothing", r.GetTypeUrl(), r.GetInitialResourceVersions())
		}
	}
	good := resource(t, pod("good", "web"))
	good.Version = "aa82bef832db85c6"
	bad := &discoveryapi.Resource{Name: uid("bad"), Version: "bb82bef832db85c6", Resource: &anypb.Any{Value: []byte{0xff, 0xff, 0xff}}}
	st.Send(t, &discoveryapi.DeltaDiscoveryResponse{TypeUrl: AddressType, Nonce: "n1", Resources: []*discoveryapi.Resource{good, bad}})
	if answer := st.Recv(t); answer.GetErrorDetail() == nil || answer.GetResponseNonce() != "n1" {
		t.Errorf("answer %v, want a rejection of n1", answer)
	}
	st.End(nil)
	st = w.plane.Accept(t)
	for _, want := range []map[string]string{{uid("good"): "aa82bef832db85c6"}, nil} {
		r := st.Recv(t)
		if diff := cmp.Diff(want, r.GetInitialResourceVersions()); diff != "" {
			t.Errorf("%s: claims of the second stream (-want +got):\n%s", r.GetTypeUrl(), diff)
		}
	}
}

// Who waits for the first content finds all of it, and is not woken by a part: both types must have come.
func TestSyncedWhenAllIsVisible(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open()
	const n = 1000
	w.push(st, AddressType, append(endpoints("w", n), &workloadapi.Service{Namespace: webKey.Namespace, Hostname: webKey.Hostname}))
	select {
	case <-w.Synced():
		t.Error("synced without policies")
	default:
	}
	seen := make(chan [2]int)
	go func() {
		<-w.Synced()
		seen <- [2]int{w.endpointCount(), len(w.policies.Policies())}
	}()
	w.push(st, AuthorizationType, []proto.Message{policy("a", securityapi.Action_ALLOW), policy("b", securityapi.Action_DENY)})
	if got := <-seen; got != [2]int{n, 2} {
		t.Errorf("%d endpoints and %d policies in force when synced, want %d and 2", got[0], got[1], n)
	}
}

// Who waits for one resource is released when the whole response with it is in force.
func TestNeedSeesTheWholeResponse(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.OnDemand = true })
	st := w.open()
	const n = 10_000
	list := append(endpoints("w", n), &workloadapi.Service{Namespace: webKey.Namespace, Hostname: webKey.Hostname})
	first := netip.MustParseAddr("1.119.0.0")
	seen := make(chan int)
	go func() {
		w.NeedAddress(t.Context(), "", first)
		if w.store.Workload("", first) == nil {
			t.Error("the workload that was waited for is not there")
		}
		seen <- w.endpointCount()
	}()
	st.Recv(t) // the subscription
	r := &discoveryapi.DeltaDiscoveryResponse{TypeUrl: AddressType, Nonce: "n"}
	for _, m := range list {
		r.Resources = append(r.Resources, resource(t, m))
	}
	r.Resources[0].Aliases = []string{"/1.119.0.0"}
	st.Send(t, r)
	if got := <-seen; got != n {
		t.Errorf("%d endpoints when the first one was there, want %d", got, n)
	}
	st.Recv(t)
}

// Of a workload or a service at hand the address and the name lead to it, and no others to anything.
func TestKnown(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open()
	local := pod("local", "web")
	local.Addresses = [][]byte{{127, 0, 0, 1}}
	w.push(st, AddressType, []proto.Message{local, &workloadapi.Service{Namespace: "default", Hostname: "defaulthost"}})
	for key, want := range map[string]bool{
		"/127.0.0.1": true, "default/defaulthost": true, uid("local"): true,
		"/127.0.0.2": false, "net/127.0.0.1": false, "default/nothost": false, "other/defaulthost": false, uid("none"): false, "none": false, "": false,
	} {
		if got := w.known(key); got != want {
			t.Errorf("known(%q) = %t, want %t", key, got, want)
		}
	}
}
