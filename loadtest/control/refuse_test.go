package control

import (
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/api/workloadapi"
)

func TestStreamsRefused(t *testing.T) {
	p := newPlane(t, Config{MaxRequest: 1 << 16})
	address, _ := serve(t, p, anywhere)
	conn := dial(t, p, address, "istiod.istio-system.svc")
	good := p.Token("istio-system", "ztunnel", "node-a")
	for _, tt := range []struct {
		name, token string
		edit        func(*discoveryapi.DeltaDiscoveryRequest)
		want        codes.Code
	}{
		{"no token", "", nil, codes.Unauthenticated},
		{"another plane's token", newPlane(t, Config{}).Token("istio-system", "ztunnel", "node-a"), nil, codes.Unauthenticated},
		{"another namespace", p.Token("shop", "ztunnel", "node-a"), nil, codes.Unauthenticated},
		{"no node", good, func(r *discoveryapi.DeltaDiscoveryRequest) { r.Node = nil }, codes.Unauthenticated},
		{"sidecar", good, func(r *discoveryapi.DeltaDiscoveryRequest) {
			r.Node.Id = strings.Replace(r.Node.GetId(), "ztunnel~", "sidecar~", 1)
		}, codes.Unauthenticated},
		{"type", good, func(r *discoveryapi.DeltaDiscoveryRequest) {
			r.TypeUrl = "type.googleapis.com/istio.workload.Workload"
		}, codes.InvalidArgument},
		{"too long", good, func(r *discoveryapi.DeltaDiscoveryRequest) {
			r.InitialResourceVersions = map[string]string{strings.Repeat("x", 1<<16): ""}
		}, codes.ResourceExhausted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := open(t, conn, tt.token)
			r := &discoveryapi.DeltaDiscoveryRequest{Node: c.node, TypeUrl: typeURLs[addresses]}
			if tt.edit != nil {
				tt.edit(r)
			}
			_ = c.stream.Send(r) // it may have ended already
			_, err := c.stream.Recv()
			if got := status.Code(err); got != tt.want {
				t.Errorf("Recv() = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestOtherCluster(t *testing.T) {
	p := newPlane(t, Config{ClusterID: "other"})
	address, _ := serve(t, p, anywhere)
	c := connect(t, p, address) // names Kubernetes
	_, err := c.stream.Recv()
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("Recv() = %v, want %v", err, codes.Unauthenticated)
	}
}

// A server is known by its names and by where it listens.
func TestServerNames(t *testing.T) {
	for _, tt := range []struct {
		names []string
		as    string
		want  codes.Code
	}{
		{nil, "istiod.istio-system.svc", codes.OK},
		{nil, "localhost", codes.OK},
		{nil, "127.0.0.1", codes.OK},
		{nil, "elsewhere", codes.Unavailable},
		{[]string{"elsewhere"}, "elsewhere", codes.OK},
		{[]string{"elsewhere"}, "127.0.0.1", codes.OK},
		{[]string{"elsewhere"}, "localhost", codes.Unavailable},
	} {
		p := newPlane(t, Config{ServerNames: tt.names})
		address, _ := serve(t, p, anywhere)
		ctx := withToken(t.Context(), p.Token("istio-system", "ztunnel", "node-a"))
		stream, err := discoveryapi.NewAggregatedDiscoveryServiceClient(dial(t, p, address, tt.as)).DeltaAggregatedResources(ctx)
		if err == nil {
			_ = stream.CloseSend()
			_, err = stream.Recv()
		}
		if err != nil && err.Error() == "EOF" {
			err = nil
		}
		if got := status.Code(err); got != tt.want {
			t.Errorf("server of %q known as %s: %v, want %v", tt.names, tt.as, err, tt.want)
		}
	}
}

func FuzzNodeName(f *testing.F) {
	f.Add("ztunnel~10.0.0.1~z.istio-system~istio-system.svc.cluster.local")
	f.Add("~~~")
	f.Add("")
	f.Fuzz(func(t *testing.T, id string) {
		_, problem := nodeName(caller{}, &discoveryapi.Node{Id: id})
		want := strings.HasPrefix(id, "ztunnel~") && strings.Count(id, "~") == 3
		if (problem == "") != want {
			t.Errorf("nodeName(%q) has problem %q, want success %v", id, problem, want)
		}
	})
}

// Serve says so when it ends because of its listener.
func TestServeFails(t *testing.T) {
	ln := listen(t)
	ln.Close()
	if err := newPlane(t, Config{}).Serve(t.Context(), ln); err == nil {
		t.Error("Serve() on a closed listener = nil, want an error")
	}
}

// A resource that is given again, and is the same, is no news.
func TestUnchanged(t *testing.T) {
	p := newPlane(t, Config{})
	m := &model{p: p, clients: []*stream{nil}, held: []map[string]string{nil}}
	m.connect(0)
	u := Update{Workloads: []*workloadapi.Workload{web("node-a", "a", "10.0.0.1")}}
	change(t, p, u)
	if r := p.response(m.clients[0], addresses); len(r.GetResources()) != 1 {
		t.Fatalf("response = %v, want one resource", r)
	}
	change(t, p, u)
	if r := p.response(m.clients[0], addresses); r != nil {
		t.Errorf("response = %v, want none", r)
	}
}

// What came and went before a client could be told leaves nothing behind, so
// that one that does not read costs no more than what there is.
func TestCameAndWent(t *testing.T) {
	p := newPlane(t, Config{})
	m := &model{p: p, clients: []*stream{nil, nil}, held: []map[string]string{nil, nil}}
	for i := range m.clients { // one for everything, one on demand
		m.connect(i)
		p.response(m.clients[i], addresses)
	}
	m.clients[1].watches[addresses].node = "node-a"
	for i := range 100 {
		name := strconv.Itoa(i)
		change(t, p, Update{Workloads: []*workloadapi.Workload{web("node-a", name, "10.0.0.1")}})
		change(t, p, Update{Remove: Names{Workloads: []string{"Kubernetes//Pod/shop/" + name}}})
	}
	for i, s := range m.clients {
		if n := len(s.watches[addresses].dirty); n > 0 {
			t.Errorf("client %d is owed %d changes, want 0", i, n)
		}
	}
	if s := p.store; len(s.byAlias)+len(s.byNode)+len(s.byService)+len(s.accounts) > 0 {
		t.Errorf("store = %+v, want nothing left in it", s)
	}
}
