package discovery

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/api/securityapi"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
	"ztunnel/proxy/xds/xdstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testNode = "node-a"

// world is a Discovery that runs against a scripted control plane.
type world struct {
	*testing.T
	*Discovery
	cfg      Config
	plane    *xdstest.Server
	store    *workload.Store
	policies *rbac.Set

	mu    sync.Mutex
	hooks []string // "prefetch NS/SA", "forget NS/SA", in order
}

// newWorld runs a Discovery until the test ends. Adjust may change the configuration.
func newWorld(t *testing.T, adjust func(*Config)) *world {
	t.Helper()
	w := makeWorld(t, adjust)
	w.run()
	return w
}

// makeWorld is newWorld without running anything.
func makeWorld(t *testing.T, adjust func(*Config)) *world {
	t.Helper()
	w := &world{T: t}
	cfg := Config{NodeName: testNode, Policies: rbac.NewSet(slog.New(slog.DiscardHandler), false)}
	hook := func(what string) func(spiffe.ID) {
		return func(id spiffe.ID) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.hooks = append(w.hooks, what+" "+strings.TrimPrefix(id.String(), "spiffe://"))
		}
	}
	cfg.Prefetch, cfg.Forget = hook("prefetch"), hook("forget")
	if adjust != nil {
		adjust(&cfg)
	}
	if cfg.Store == nil {
		cfg.Store = workload.NewStore(workload.Config{NodeName: cfg.NodeName})
	}
	if cfg.Channel == nil {
		w.plane = xdstest.New(t)
		cfg.Channel = &xdstest.Channel{Server: w.plane}
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Discovery, w.cfg, w.store, w.policies = d, cfg, cfg.Store, cfg.Policies
	return w
}

func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Discovery.Run(ctx); err != nil {
			w.Errorf("Run = %v, want nil", err)
		}
	})
	w.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// open accepts a stream and takes its first two requests.
func (w *world) open() *xdstest.Stream {
	w.Helper()
	st := w.plane.Accept(w)
	st.Recv(w)
	st.Recv(w)
	return st
}

// push sends resources and removals of one type and returns why they are rejected, or "".
func (w *world) push(st *xdstest.Stream, typeURL string, put []proto.Message, removed ...string) string {
	w.Helper()
	r := &discoveryapi.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: "n", RemovedResources: removed}
	for _, m := range put {
		r.Resources = append(r.Resources, resource(w.T, m))
	}
	st.Send(w, r)
	return st.Recv(w).GetErrorDetail().GetMessage()
}

// resource names and encodes a workload, a service or a policy.
func resource(tb testing.TB, m proto.Message) *discoveryapi.Resource {
	tb.Helper()
	name := ""
	switch v := m.(type) {
	case *workloadapi.Workload:
		name, m = v.GetUid(), &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: v}}
	case *workloadapi.Service:
		name, m = v.GetNamespace()+"/"+v.GetHostname(), &workloadapi.Address{Type: &workloadapi.Address_Service{Service: v}}
	case *securityapi.Authorization:
		name = v.GetNamespace() + "/" + v.GetName()
	default:
		tb.Fatalf("%T is no resource", m)
	}
	body, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return &discoveryapi.Resource{Name: name, Resource: &anypb.Any{Value: body}}
}

// state is everything in the stores as the config dump shows it, by kind and name.
func state(t *testing.T, store *workload.Store, policies *rbac.Set) map[string]json.RawMessage {
	t.Helper()
	all := make(map[string]json.RawMessage)
	add := func(name string, v any) {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := json.Indent(&b, raw, "", "  "); err != nil {
			t.Fatal(err)
		}
		all[name] = b.Bytes()
	}
	for _, w := range store.Workloads() {
		add("workload "+w.UID, w)
	}
	for _, s := range store.DumpServices() {
		add("service "+s.Key().String(), s)
	}
	if staged := store.StagedEndpoints(); len(staged) > 0 {
		add("staged", staged)
	}
	for _, p := range policies.Policies() {
		add("policy "+p.Key(), p)
	}
	return all
}

// takeHooks returns what was told since the last time.
func (w *world) takeHooks() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	got := w.hooks
	w.hooks = nil
	return got
}

// pod is a workload of this node in the mesh.
func pod(name, account string) *workloadapi.Workload {
	return &workloadapi.Workload{
		Uid: "Kubernetes//Pod/shop/" + name, Name: name, Namespace: "shop", ServiceAccount: account, Node: testNode,
		TunnelProtocol: workloadapi.TunnelProtocol_HBONE,
	}
}

func uid(name string) string { return fmt.Sprintf("Kubernetes//Pod/shop/%s", name) }
