package xds

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"ztunnel/proxy/api/discoveryapi"
)

// The first two requests ask for everything, in the order of the types, and introduce the node.
func TestFirstRequests(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		_, things, policies := w.open()
		for i, got := range []*discoveryapi.DeltaDiscoveryRequest{things, policies} {
			want := &discoveryapi.DeltaDiscoveryRequest{Node: testNode, TypeUrl: []string{thingType, policyType}[i]}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("request %d (-want +got):\n%s", i, diff)
			}
		}
	})
}

// An answer holds the type and the nonce, and for a rejection its reason with a code, and nothing else.
func TestAnswers(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		r := push(thingType, nil, res("a=1@1"))
		if diff := cmp.Diff(&discoveryapi.DeltaDiscoveryRequest{TypeUrl: thingType, ResponseNonce: r.GetNonce()}, w.say(st, r), protocmp.Transform()); diff != "" {
			t.Errorf("ACK (-want +got):\n%s", diff)
		}
		r = push(thingType, nil, res("a=2@2"), res("b=bad b"), &discoveryapi.Resource{Name: "c"}, res("d=4"))
		want := &discoveryapi.DeltaDiscoveryRequest{TypeUrl: thingType, ResponseNonce: r.GetNonce(), ErrorDetail: &discoveryapi.Status{
			Code: int32(codes.InvalidArgument), Message: "b: bad b; c: XDS payload without resource",
		}}
		if diff := cmp.Diff(want, w.say(st, r), protocmp.Transform()); diff != "" {
			t.Errorf("NACK (-want +got):\n%s", diff)
		}
		if got := w.things.names(); got != "a d" {
			t.Errorf("in force: %q, want the good ones, a d", got)
		}
		if got := w.log.with("Nack"); len(got) > 0 {
			t.Errorf("lines %q, want the type only as attribute", got)
		}
		if got := w.log.with("b: bad b"); len(got) != 1 || !strings.HasPrefix(got[0], "ERROR sending response") {
			t.Errorf("lines %q, want one error about the rejection", got)
		}
	})
}

// A type that nobody asked for is reported and acknowledged.
func TestUnknownType(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		w.accepts(st, push("type.example/Unheard", []string{"x"}, res("a=1@1")))
		if got := w.log.with("unknown type"); len(got) != 1 || !strings.HasPrefix(got[0], "ERROR") {
			t.Errorf("lines %q, want one error", got)
		}
	})
}

// A response whose frame cannot be decoded ends the stream as a failure of this side.
func TestMalformedResponse(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		st.SendBytes(w, []byte{0x12, 0x7f, 0x01})
		st, _, _ = w.open()
		w.accepts(st, push(thingType, nil))
		if got := w.client.Status().Ended; got[reasonError] != 1 {
			t.Errorf("ends %v, want one Error", got)
		}
	})
}

// A name in both lists of a response is gone.
func TestPutAndRemoved(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		w.accepts(st, push(thingType, []string{"a"}, res("a=1@aaaaaaaaaaaa"), res("b=1@bbbbbbbbbbbb")))
		if got := w.things.names(); got != "b" {
			t.Errorf("in force: %q, want b", got)
		}
		st.End(status.Error(codes.Canceled, "bye"))
		_, things, _ := w.open()
		if diff := cmp.Diff(map[string]string{"b": "bbbbbbbbbbbb"}, things.GetInitialResourceVersions()); diff != "" {
			t.Errorf("claims (-want +got):\n%s", diff)
		}
	})
}

// A new stream claims what was accepted: not what was rejected, the older version of what was rejected later, nothing that
// was removed, and what was rejected and is in force nonetheless without a version.
func TestClaims(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		w.accepts(st, push(thingType, nil, res("kept=1@2660f7399b9b1d2"), res("worse=1@v1"), res("gone=1@3"), res("zero=0@0")))
		w.say(st, push(thingType, []string{"gone"}, res("new=bad"), res("worse=bad@v2"), res("fierce=broken@77")))
		w.accepts(st, push(policyType, nil, res("p=1")))
		st.End(status.Error(codes.Canceled, "bye"))

		st, things, policies := w.open()
		want := map[string]string{"kept": "2660f7399b9b1d2", "worse": "v1", "zero": "0", "fierce": ""}
		if diff := cmp.Diff(want, things.GetInitialResourceVersions()); diff != "" {
			t.Errorf("claims (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]string{"p": ""}, policies.GetInitialResourceVersions()); diff != "" {
			t.Errorf("claims of policies (-want +got):\n%s", diff)
		}
		// What happens on later streams counts too.
		w.accepts(st, push(thingType, []string{"kept"}))
		if got := w.things.names(); got != "fierce worse zero" {
			t.Errorf("in force: %q", got)
		}
	})
}

// A resource in the version in force, where that is a hash, is not handed out again. Versions that may be counters don't
// tell.
func TestUnchangedIsLeftOut(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		w.accepts(st, push(thingType, nil, res("a=1@aa82bef832db85c6"), res("b=1@1")))
		w.accepts(st, push(thingType, nil, res("a=2@aa82bef832db85c6"), res("b=2@1")))
		if diff := cmp.Diff(map[string]string{"a": "1", "b": "2"}, w.things.content); diff != "" {
			t.Errorf("in force (-want +got):\n%s", diff)
		}
		// After a removal it is new.
		w.accepts(st, push(thingType, []string{"a"}))
		w.accepts(st, push(thingType, nil, res("a=3@aa82bef832db85c6")))
		if got := w.things.content["a"]; got != "3" {
			t.Errorf("a = %q, want 3", got)
		}
		// After a rejection the old version is still the one in force.
		w.say(st, push(thingType, nil, res("a=bad@bb82bef832db85c6")))
		w.accepts(st, push(thingType, nil, res("a=4@bb82bef832db85c6")))
		if got := w.things.content["a"]; got != "4" {
			t.Errorf("a = %q, want 4", got)
		}
	})
}

// Synced waits for an accepted response of each type, be it empty, on whichever stream.
func TestSynced(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		w.say(st, push(thingType, nil, res("a=bad")))
		w.accepts(st, push(policyType, nil))
		if w.isSynced() {
			t.Error("synced after a rejected response")
		}
		st.End(status.Error(codes.Unavailable, "transport is closing"))
		st, _, _ = w.open()
		w.say(st, push(policyType, nil, res("a=bad")))
		if w.isSynced() {
			t.Error("synced without the first type")
		}
		w.accepts(st, push(thingType, nil))
		if !w.isSynced() {
			t.Error("not synced after both types")
		}
	})
}

// Nothing is awaited of a client that has everything on demand.
func TestSyncedWithoutTypes(t *testing.T) {
	c := New(Config{Types: []Type{{URL: thingType, OnDemand: true, Handler: newTable()}}})
	select {
	case <-c.Synced():
	default:
		t.Error("not synced, want it at once")
	}
}

// The state is untouched by the loss of the control plane, and status and metrics tell of it.
func TestStatus(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		st, _, _ := w.open()
		w.accepts(st, push(thingType, nil, res("a=1"), res("b=1")))
		w.say(st, push(thingType, nil, res("c=bad")))
		synctest.Wait()
		s := w.client.Status()
		if !s.Connected || s.Streams != 1 || s.Types[0].Resources != 2 || s.Types[0].Messages != 2 || s.Types[0].Nacks != 1 ||
			s.Types[0].LastAck.IsZero() || !s.Types[1].LastMessage.IsZero() {
			t.Errorf("status %+v", s)
		}
		w.plane.Refuse(status.Error(codes.Unavailable, "not now"))
		st.End(status.Error(codes.Internal, "enough"))
		synctest.Wait()
		if s := w.client.Status(); s.Connected || s.Backoff <= 0 || s.Ended[reasonError] != 1 {
			t.Errorf("status %+v, want not connected and a pause", s)
		}
		if got := w.things.names(); got != "a b" {
			t.Errorf("in force: %q, want a b", got)
		}
	})
}
