package xds

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/xds/xdstest"
)

// onDemand makes the things of a client on demand. What is in the table, or an alias of it, is known.
func onDemand(t *testing.T, known func(w *world, key string) bool, test func(w *world)) {
	t.Helper()
	var w *world
	inBubble(t, func(c *Config) {
		c.Types[0].OnDemand = true
		c.Types[0].Known = func(key string) bool {
			if known != nil {
				return known(w, key)
			}
			return w.things.has(key)
		}
	}, func(made *world) {
		w = made
		test(w)
	})
}

// onDemandWith is onDemand with something to do to the client before it runs.
func onDemandWith(t *testing.T, prepare func(c *Client), test func(w *world)) {
	t.Helper()
	prepareClient = prepare
	defer func() { prepareClient = nil }()
	onDemand(t, nil, test)
}

// demand asks for a key in the background. The result is sent once.
func (w *world) demand(key string) <-chan DemandResult {
	done := make(chan DemandResult, 1)
	go func() { done <- w.client.Demand(context.Background(), thingType, key) }()
	synctest.Wait()
	return done
}

func (w *world) expectResult(done <-chan DemandResult, want DemandResult) {
	w.Helper()
	if got := <-done; got != want {
		w.Errorf("Demand = %s, want %s", got, want)
	}
}

func (w *world) expectSubscription(st *xdstest.Stream, names ...string) {
	w.Helper()
	want := &discoveryapi.DeltaDiscoveryRequest{TypeUrl: thingType, ResourceNamesSubscribe: names}
	if diff := cmp.Diff(want, st.Recv(w), protocmp.Transform()); diff != "" {
		w.Errorf("subscription (-want +got):\n%s", diff)
	}
}

// The first request subscribes to nothing, and Synced does not wait for what is on demand.
func TestOnDemandBegins(t *testing.T) {
	onDemand(t, nil, func(w *world) {
		st, things, policies := w.open()
		want := &discoveryapi.DeltaDiscoveryRequest{
			Node: testNode, TypeUrl: thingType, ResourceNamesSubscribe: []string{"*"}, ResourceNamesUnsubscribe: []string{"*"},
		}
		if diff := cmp.Diff(want, things, protocmp.Transform()); diff != "" {
			t.Errorf("first request (-want +got):\n%s", diff)
		}
		if n := len(policies.GetResourceNamesSubscribe()) + len(policies.GetResourceNamesUnsubscribe()); n > 0 {
			t.Errorf("second request %v, want everything", policies)
		}
		w.accepts(st, push(policyType, nil))
		if !w.isSynced() {
			t.Error("not synced after the policies")
		}
	})
}

// A key is asked for once, whoever asks; all that wait are told when the answer is in force, be it by name or by alias.
func TestDemandIsAnswered(t *testing.T) {
	known := func(w *world, key string) bool { return w.things.has(key) || key == "/10.0.0.1" && w.things.has("pod") }
	onDemand(t, known, func(w *world) {
		st, _, _ := w.open()
		first, second := w.demand("/10.0.0.1"), w.demand("/10.0.0.1")
		w.expectSubscription(st, "/10.0.0.1")
		w.accepts(st, push(thingType, nil, res("other=1")))
		synctest.Wait()
		select {
		case got := <-first:
			t.Errorf("Demand = %s after a response about something else", got)
		default:
		}
		w.accepts(st, push(thingType, nil, res("pod=1@1", "/10.0.0.1")))
		w.expectResult(first, DemandFound)
		w.expectResult(second, DemandFound)
		w.expectResult(w.demand("/10.0.0.1"), DemandKnown)
		if r := st.Pending(); r != nil {
			t.Errorf("request %v, want no more", r)
		}
	})
}

// A rejected resource ends the wait too.
func TestDemandIsAnsweredByRejection(t *testing.T) {
	onDemand(t, nil, func(w *world) {
		st, _, _ := w.open()
		done := w.demand("pod")
		w.expectSubscription(st, "pod")
		w.say(st, push(thingType, nil, res("pod=bad")))
		w.expectResult(done, DemandUnknown)
	})
}

// What is unknown counts as unknown for a while; then it is asked for again, but not waited for long.
func TestDemandOfUnknown(t *testing.T) {
	onDemand(t, nil, func(w *world) {
		st, _, _ := w.open()
		done := w.demand("/10.0.0.9")
		w.expectSubscription(st, "/10.0.0.9")
		w.accepts(st, push(thingType, []string{"/10.0.0.9"}))
		w.expectResult(done, DemandUnknown)
		start := time.Now()
		w.expectResult(w.demand("/10.0.0.9"), DemandCached)
		if time.Since(start) > 0 || st.Pending() != nil {
			t.Error("a key that is known to be unknown was waited for or asked for")
		}
		time.Sleep(unknownFor)
		start = time.Now()
		done = w.demand("/10.0.0.9")
		w.expectSubscription(st, "/10.0.0.9")
		w.expectResult(done, DemandTimedOut)
		if d := time.Since(start); d != repeatTimeout {
			t.Errorf("waited %s for a key asked for before, want %s", d, repeatTimeout)
		}
		// It may have come into being meanwhile.
		time.Sleep(unknownFor)
		done = w.demand("/10.0.0.9")
		st.Recv(w)
		w.accepts(st, push(thingType, nil, res("/10.0.0.9=1@1")))
		w.expectResult(done, DemandFound)
	})
}

// A control plane that is silent, or away, is waited for for a bounded time, once.
func TestDemandTimesOut(t *testing.T) {
	onDemand(t, nil, func(w *world) {
		start := time.Now()
		done := w.demand("pod") // there is no stream yet
		w.expectResult(done, DemandTimedOut)
		if d := time.Since(start); d != DemandTimeout {
			t.Errorf("waited %s, want %s", d, DemandTimeout)
		}
		w.expectResult(w.demand("pod"), DemandCached)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		if got := w.client.Demand(ctx, thingType, "other"); got != DemandCanceled {
			t.Errorf("Demand = %s after the end of its context, want canceled", got)
		}
		if got := w.client.Demand(ctx, policyType, "p"); got != DemandKnown {
			t.Errorf("Demand of what is not on demand = %s, want known", got)
		}
	})
}

// A caller that gives up leaves no trace but that the key was asked for.
func TestDemandIsGivenUp(t *testing.T) {
	onDemand(t, nil, func(w *world) {
		st, _, _ := w.open()
		ctx, cancel := context.WithCancel(w.Context())
		done := make(chan DemandResult, 1)
		go func() { done <- w.client.Demand(ctx, thingType, "pod") }()
		w.expectSubscription(st, "pod")
		cancel()
		w.expectResult(done, DemandCanceled)
		if n := len(w.client.types[0].demands.pending); n != 0 {
			t.Errorf("%d keys pending, want none", n)
		}
		start := time.Now()
		again := w.demand("pod")
		w.expectSubscription(st, "pod")
		w.expectResult(again, DemandTimedOut)
		if d := time.Since(start); d != repeatTimeout {
			t.Errorf("waited %s for a key asked for before, want %s", d, repeatTimeout)
		}
		w.accepts(st, push(thingType, nil, res("pod=1@1")))
		w.expectResult(w.demand("pod"), DemandKnown)
	})
}

// Who waits while there is no stream is served by the next one. What was unknown may be known there.
func TestDemandAcrossStreams(t *testing.T) {
	onDemand(t, func(w *world, key string) bool { return w.things.has("pod") && key == "alias" || w.things.has(key) }, func(w *world) {
		st, _, _ := w.open()
		first := w.demand("alias")
		w.expectSubscription(st, "alias")
		w.accepts(st, push(thingType, nil, res("pod=1@aa82bef832db85c6", "alias")))
		w.expectResult(first, DemandFound)
		unknown := w.demand("nothing")
		w.expectSubscription(st, "nothing")
		w.accepts(st, push(thingType, []string{"nothing"}))
		w.expectResult(unknown, DemandUnknown)
		waiting := w.demand("late")
		w.expectSubscription(st, "late")

		st.End(status.Error(codes.Canceled, "bye"))
		more := w.demand("more")
		st, things, _ := w.open()
		if diff := cmp.Diff(map[string]string{"pod": "aa82bef832db85c6", "alias": ""}, things.GetInitialResourceVersions()); diff != "" {
			t.Errorf("claims (-want +got):\n%s", diff)
		}
		w.expectSubscription(st, "late", "more")
		w.accepts(st, push(thingType, nil, res("late=1"), res("more=1")))
		w.expectResult(waiting, DemandFound)
		w.expectResult(more, DemandFound)
		unknown = w.demand("nothing")
		w.expectSubscription(st, "nothing")
		w.accepts(st, push(thingType, []string{"nothing"}))
		w.expectResult(unknown, DemandUnknown)
	})
}

// What goes away while it is claimed is no longer claimed, and can be asked for again.
func TestDemandOfRemoved(t *testing.T) {
	onDemand(t, nil, func(w *world) {
		st, _, _ := w.open()
		done := w.demand("pod")
		st.Recv(w)
		w.accepts(st, push(thingType, nil, res("pod=1@1")))
		w.expectResult(done, DemandFound)
		w.accepts(st, push(thingType, []string{"pod"}))
		done = w.demand("pod")
		w.expectSubscription(st, "pod")
		w.accepts(st, push(thingType, nil, res("pod=2@2")))
		w.expectResult(done, DemandFound)
		w.accepts(st, push(thingType, []string{"pod"}))
		st.End(status.Error(codes.Canceled, "bye"))
		if _, things, _ := w.open(); len(things.GetInitialResourceVersions()) > 0 {
			t.Errorf("claims %v, want none", things.GetInitialResourceVersions())
		}
	})
}

// The keys that wait and those that are remembered are bounded.
func TestDemandLimits(t *testing.T) {
	onDemand(t, nil, func(w *world) {
		w.plane.Refuse(status.Error(codes.Unavailable, "away"))
		var waiting sync.WaitGroup
		for i := range maxPending {
			waiting.Go(func() { w.client.Demand(context.Background(), thingType, fmt.Sprint("key-", i)) })
		}
		synctest.Wait()
		w.expectResult(w.demand("one too many"), DemandRefused)
		waiting.Wait()
		d := w.client.types[0].demands
		for i := range 2 * maxAsked {
			d.mu.Lock()
			d.remember(fmt.Sprint("asked-", i), asked{})
			d.mu.Unlock()
		}
		if len(d.asked) != maxAsked || len(d.order) != maxAsked || len(d.pending) != 0 {
			t.Errorf("%d keys asked, %d in order, %d pending, want %d, %d, 0", len(d.asked), len(d.order), len(d.pending), maxAsked, maxAsked)
		}
		if _, ok := d.asked[fmt.Sprint("asked-", 2*maxAsked-1)]; !ok {
			t.Error("the newest key was forgotten")
		}
	})
}
