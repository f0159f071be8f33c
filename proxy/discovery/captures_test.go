package discovery

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/xds"
	"ztunnel/proxy/xds/xdstest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// recordedNode is the client of the recordings.
var recordedNode = xds.NodeConfig{
	PodName: "ztunnel-a1", PodNamespace: "istio-system", InstanceIP: "10.10.1.2", NodeName: "node-a",
	Metadata: map[string]string{"CLUSTER_ID": "Kubernetes"},
}

// The files in testdata/captures are recordings of a real istiod (development branch, August 2026) and of a client that
// behaved like ztunnel. They are replayed: what we send must be what was recorded, and after each step the state must be
// what the golden file says, which holds what the step changed.
func TestCaptures(t *testing.T) {
	for _, recording := range []string{"full-sync", "on-demand", "with-networks", "lifecycle"} {
		t.Run(recording, func(t *testing.T) {
			r := newReplay(t, recording)
			steps, err := filepath.Glob(filepath.Join("testdata/captures", recording, "*"))
			if err != nil || len(steps) == 0 {
				t.Fatalf("no recording: %v", err)
			}
			before := make(map[string]json.RawMessage)
			var golden bytes.Buffer
			for _, step := range steps {
				if filepath.Base(step) == "11-unsubscribe" {
					continue // which we never do: the answer would be that all else is gone
				}
				r.play(step)
				after := state(t, r.store, r.policies)
				writeChanges(&golden, filepath.Base(step), before, after, r.takeHooks())
				before = after
			}
			compareGolden(t, filepath.Join("testdata", recording+".golden"), golden.Bytes())
		})
	}
}

// writeChanges writes what a step has changed.
func writeChanges(to *bytes.Buffer, step string, before, after map[string]json.RawMessage, hooks []string) {
	to.WriteString("=== " + step + "\n")
	names := make(map[string]bool)
	for name := range before {
		names[name] = true
	}
	for name := range after {
		names[name] = true
	}
	for _, name := range sortedKeys(names) {
		old, now := before[name], after[name]
		switch {
		case now == nil:
			to.WriteString("--- " + name + "\n")
		case old == nil:
			to.WriteString("+++ " + name + "\n" + string(now) + "\n")
		case !bytes.Equal(old, now):
			to.WriteString("*** " + name + "\n" + changedLines(string(old), string(now)))
		}
	}
	slices.Sort(hooks)
	for _, hook := range slices.Compact(hooks) {
		to.WriteString("... " + hook + "\n")
	}
}

func sortedKeys(m map[string]bool) []string {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// changedLines are the lines of a text that differ from those of another one, without their common beginning and end.
func changedLines(old, now string) string {
	a, b := strings.Split(old, "\n"), strings.Split(now, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	var text strings.Builder
	for _, line := range a {
		text.WriteString("-" + line + "\n")
	}
	for _, line := range b {
		text.WriteString("+" + line + "\n")
	}
	return text.String()
}

func compareGolden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); diff != "" {
		t.Errorf("%s, want (-) and got (+); -update rewrites it:\n%s", path, diff)
	}
}

// replay plays recordings to a Discovery.
type replay struct {
	*world
	stream *xdstest.Stream
	asking sync.WaitGroup

	mu    sync.Mutex
	asked map[string]bool // keys that were asked for
}

// newReplay begins a replay: of the first recording over TLS with a real channel, of the others in memory.
func newReplay(t *testing.T, recording string) *replay {
	t.Helper()
	r := &replay{asked: make(map[string]bool)}
	var plane *xdstest.Server
	r.world = makeWorld(t, func(c *Config) {
		c.Node, c.OnDemand = recordedNode, recording == "on-demand"
		if recording == "full-sync" {
			plane, c.Channel = overTLS(t)
		}
	})
	if plane != nil {
		r.plane = plane
	}
	// The recording client asked for what it knew already. So nothing is known here until it was asked for.
	client, err := newClient(r.cfg, func(key string) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.asked[key] && r.known(key)
	})
	if err != nil {
		t.Fatal(err)
	}
	r.client = client
	r.run()
	t.Cleanup(r.asking.Wait)
	return r
}

// play plays one step.
func (r *replay) play(step string) {
	r.Helper()
	files, err := os.ReadDir(step)
	if err != nil {
		r.Fatal(err)
	}
	for _, file := range files {
		path := filepath.Join(step, file.Name())
		_, kind, _ := strings.Cut(file.Name(), "-")
		switch {
		case strings.HasPrefix(kind, "request-"):
			r.expectRequest(path)
		case strings.HasPrefix(kind, "ack-"), strings.HasPrefix(kind, "nack-"):
			r.expectAnswer(path)
		case strings.HasSuffix(kind, ".pb"):
			b, err := os.ReadFile(path)
			if err != nil {
				r.Fatal(err)
			}
			r.stream.SendBytes(r, b)
		}
	}
	r.asking.Wait()
}

// expectRequest expects a recorded request. One for everything begins a stream, after the end of the last one; any other
// asks for one key, which somebody then needs.
func (r *replay) expectRequest(path string) {
	r.Helper()
	want := readRequest(r.T, path)
	switch {
	case want.GetNode() == nil:
		key := want.GetResourceNamesSubscribe()[0]
		r.asking.Go(func() { r.Need(context.Background(), key) })
	case want.GetTypeUrl() == AddressType:
		if r.stream != nil {
			r.stream.End(status.Error(codes.Canceled, "bye"))
		}
		r.stream = r.plane.Accept(r)
	}
	if diff := cmp.Diff(want, r.stream.Recv(r), protocmp.Transform()); diff != "" {
		r.Errorf("%s: request, recorded (-) and ours (+):\n%s", path, diff)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range want.GetResourceNamesSubscribe() {
		r.asked[key] = true
	}
}

// expectAnswer expects an ACK with the recorded nonce. The recording client rejected a response to see what happens, for
// which we have no reason.
func (r *replay) expectAnswer(path string) {
	r.Helper()
	want := readRequest(r.T, path)
	want.ErrorDetail = nil
	if diff := cmp.Diff(want, r.stream.Recv(r), protocmp.Transform()); diff != "" {
		r.Errorf("%s: answer, recorded (-) and ours (+):\n%s", path, diff)
	}
}

func readRequest(t *testing.T, path string) *discoveryapi.DeltaDiscoveryRequest {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := new(discoveryapi.DeltaDiscoveryRequest)
	if err := protojson.Unmarshal(b, m); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return m
}
