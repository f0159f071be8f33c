package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ztunnel/proxy/api/discoveryapi"
)

// large makes n resources whose names alone take size bytes each.
func large(n, size int) []*discoveryapi.Resource {
	list := make([]*discoveryapi.Resource, n)
	for i := range list {
		list[i] = res(fmt.Sprintf("%06d%s=1@%016x", i, strings.Repeat("x", size-6), 1<<60+i))
	}
	return list
}

// What does not fit into a request is not claimed. The first response has what of it still exists; the rest is gone. So
// nothing is lost although the control plane cannot say so.
func TestClaimsBeyondTheLimit(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		all := large(10_000, 500)
		w.accepts(st, push(thingType, nil, all...))
		st.End(status.Error(codes.Canceled, "bye"))

		st, things, _ := w.open()
		claimed := things.GetInitialResourceVersions()
		if n := len(claimed); n < 5000 || n > 6500 {
			t.Fatalf("%d resources claimed, want as many as fit into 3 MiB", n)
		}
		// Of what was not claimed, all but one still exist; one more is new; one that was claimed is removed.
		var first []*discoveryapi.Resource
		var missing string
		for _, r := range all {
			if _, ok := claimed[r.GetName()]; ok {
				continue
			}
			if missing == "" {
				missing = r.GetName()
				continue
			}
			first = append(first, r)
		}
		removed := slices.Sorted(maps.Keys(claimed))[0]
		w.accepts(st, push(thingType, []string{removed}, append(first, res("new=1@1"))...))
		if w.things.has(missing) || w.things.has(removed) || !w.things.has("new") || len(w.things.content) != len(all)-1 {
			t.Errorf("missing %t, removed %t, new %t, %d in all; want false, false, true, %d",
				w.things.has(missing), w.things.has(removed), w.things.has("new"), len(w.things.content), len(all)-1)
		}
		if w.client.types[0].unclaimed != nil {
			t.Error("what was not claimed is still remembered")
		}
		// Only the first response is complete.
		w.accepts(st, push(thingType, nil, res("more=1@1")))
		if n := len(w.things.content); n != len(all) {
			t.Errorf("%d resources after the second response, want %d", n, len(all))
		}
		if n := w.client.Status().Types[0].Resources; n != len(all) {
			t.Errorf("%d resources counted, want %d", n, len(all))
		}
	})
}

// A control plane that takes less than we think is claimed less until it is content.
func TestRequestTooLarge(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		w.accepts(st, push(thingType, nil, large(1000, 400)...))
		w.accepts(st, push(policyType, nil, res("p=1")))
		tooLarge := status.Error(codes.ResourceExhausted, "grpc: received message larger than max (420000 vs. 65536)")
		st.End(tooLarge)
		st, things, _ := w.open()
		var sizes []int
		for range 5 {
			sizes = append(sizes, len(things.GetInitialResourceVersions()))
			if sizes[len(sizes)-1] == 0 {
				break
			}
			st.End(tooLarge)
			st, things, _ = w.open()
		}
		if len(sizes) < 2 || len(sizes) > 4 || sizes[len(sizes)-1] != 0 {
			t.Errorf("claims %v, want fewer and fewer down to none", sizes)
		}
		// Nothing is claimed: a first response without anything says that all is gone, for this type alone.
		w.say(st, push(thingType, nil, res("bad=bad"), res("000001"+strings.Repeat("x", 394)+"=bad")))
		if got := len(w.things.content); got != 1 {
			t.Errorf("%d in force, want the one whose new version was rejected", got)
		}
		if got := w.policies.names(); got != "p" {
			t.Errorf("policies %q, want p", got)
		}
		w.accepts(st, push(policyType, nil))
		if got := w.policies.names(); got != "" {
			t.Errorf("policies %q, want none", got)
		}
	})
}

// A stream that ends before its first response changes nothing.
func TestResyncIsInterrupted(t *testing.T) {
	prepareClient = func(c *Client) { c.budget = 0 }
	defer func() { prepareClient = nil }()
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		w.accepts(st, push(thingType, nil, large(20, 300_000)...))
		for range 2 {
			st.End(status.Error(codes.Canceled, "bye"))
			st, _, _ = w.open()
		}
		if n := len(w.things.content); n != 20 {
			t.Errorf("%d in force, want 20", n)
		}
	})
}

// On demand nothing is complete: what cannot be claimed is subscribed to by name.
func TestClaimsBeyondTheLimitOnDemand(t *testing.T) {
	onDemand(t, nil, func(w *world) {
		st, _, _ := w.open()
		all := large(10_000, 500)
		w.accepts(st, push(thingType, nil, all...))
		st.End(status.Error(codes.Canceled, "bye"))
		st = w.plane.Accept(w)
		asked := make(map[string]int)
		for {
			r := st.Recv(w)
			if r.GetTypeUrl() == policyType {
				break
			}
			for name := range r.GetInitialResourceVersions() {
				asked[name]++
			}
			for _, name := range r.GetResourceNamesSubscribe() {
				asked[name]++
			}
		}
		delete(asked, "*")
		want := make(map[string]int)
		for _, r := range all {
			want[r.GetName()] = 1
		}
		if diff := cmp.Diff(want, asked); diff != "" {
			t.Errorf("names that were claimed or asked for (-want +got):\n%s", diff)
		}
		w.accepts(st, push(thingType, nil))
		if n := len(w.things.content); n != len(all) {
			t.Errorf("%d in force, want %d", n, len(all))
		}
	})
}
