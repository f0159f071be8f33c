package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/api/securityapi"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newPlane(t *testing.T, cfg Config) *Plane {
	t.Helper()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serve runs the plane at a free port, or at the given address, until stop is
// called or the test ends.
func serve(t *testing.T, p *Plane, at string) (address string, stop func()) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, ln) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v, want nil", err)
		}
	}
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

const anywhere = "127.0.0.1:0"

// dial connects as a client that trusts the plane's root and knows the server
// by a name.
func dial(t *testing.T, p *Plane, address, serverName string) *grpc.ClientConn {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(p.RootPEM()) {
		t.Fatal("RootPEM() has no certificate")
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(
		&tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS13},
	)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// client is a ztunnel's end of a stream, in the test's own hand.
type client struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[discoveryapi.DeltaDiscoveryRequest, discoveryapi.DeltaDiscoveryResponse]
	node   *discoveryapi.Node // not sent yet
}

// connect opens a stream as the ztunnel of node-a.
func connect(t *testing.T, p *Plane, address string) *client {
	t.Helper()
	return open(t, dial(t, p, address, "istiod.istio-system.svc"), p.Token("istio-system", "ztunnel", "node-a"))
}

func open(t *testing.T, conn *grpc.ClientConn, token string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(withToken(t.Context(), token), 30*time.Second)
	t.Cleanup(cancel)
	stream, err := discoveryapi.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fields, err := structpb.NewStruct(map[string]any{"NAMESPACE": "istio-system", "NODE_NAME": "node-a"})
	if err != nil {
		t.Fatal(err)
	}
	return &client{t: t, stream: stream, node: &discoveryapi.Node{
		Id:       "ztunnel~10.0.0.1~ztunnel-a.istio-system~istio-system.svc.cluster.local",
		Metadata: fields,
	}}
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token, "clusterid", "Kubernetes")
}

func (c *client) send(k kind, r *discoveryapi.DeltaDiscoveryRequest) {
	c.t.Helper()
	r.TypeUrl = typeURLs[k]
	r.Node, c.node = c.node, nil
	if err := c.stream.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

// everything subscribes to all of a kind.
func (c *client) everything(k kind, held map[string]string) {
	c.t.Helper()
	c.send(k, &discoveryapi.DeltaDiscoveryRequest{InitialResourceVersions: held})
}

// on demand subscribes to nothing.
func (c *client) onDemand(held map[string]string) {
	c.t.Helper()
	c.send(addresses, &discoveryapi.DeltaDiscoveryRequest{
		InitialResourceVersions: held, ResourceNamesSubscribe: []string{"*"}, ResourceNamesUnsubscribe: []string{"*"},
	})
}

func (c *client) receive() *discoveryapi.DeltaDiscoveryResponse {
	c.t.Helper()
	r, err := c.stream.Recv()
	if err != nil {
		c.t.Fatalf("receive response: %v", err)
	}
	return r
}

func (c *client) ack(r *discoveryapi.DeltaDiscoveryResponse) {
	c.t.Helper()
	c.send(kind(slices.Index(typeURLs[:], r.GetTypeUrl())), &discoveryapi.DeltaDiscoveryRequest{ResponseNonce: r.GetNonce()})
}

// want receives a response of a kind, which must have these names, and acks it.
// Names that begin with "-" are removed ones.
func (c *client) want(k kind, names ...string) *discoveryapi.DeltaDiscoveryResponse {
	c.t.Helper()
	r := c.receive()
	var got []string
	for _, resource := range r.GetResources() {
		got = append(got, resource.GetName())
	}
	for _, name := range r.GetRemovedResources() {
		got = append(got, "-"+name)
	}
	slices.Sort(got)
	slices.Sort(names)
	if diff := cmp.Diff(names, got); diff != "" || r.GetTypeUrl() != typeURLs[k] {
		c.t.Fatalf("response of type %s (-want +got):\n%s", r.GetTypeUrl(), diff)
	}
	c.ack(r)
	return r
}

// versions of what a response has.
func versions(r *discoveryapi.DeltaDiscoveryResponse) map[string]string {
	held := map[string]string{}
	for _, resource := range r.GetResources() {
		held[resource.GetName()] = resource.GetVersion()
	}
	return held
}

func web(node, name, ip string, services ...*workloadapi.Service) *workloadapi.Workload {
	return Pod(PodSpec{
		Namespace: "shop", Name: name, ServiceAccount: "web", Node: node, Captured: true,
		Addresses: []netip.Addr{netip.MustParseAddr(ip)}, Services: services,
	})
}

func service(name string, vips ...netip.Addr) *workloadapi.Service {
	return Service(ServiceSpec{Namespace: "shop", Name: name, VIPs: vips, Ports: []Port{{Port: 80, Target: 8080}}})
}

func allow(name string) *securityapi.Authorization {
	return AllowPolicy(PolicySpec{Namespace: "shop", Name: name, Principals: []string{"cluster.local/ns/shop/sa/web"}})
}

func change(t *testing.T, p *Plane, u Update) {
	t.Helper()
	if err := p.Update(u); err != nil {
		t.Fatal(err)
	}
}

// settle waits until all streams have answered all there is.
func settle(t *testing.T, p *Plane) (s Stats) {
	t.Helper()
	proxytest.Until(t, "no stream is behind", func() bool {
		s = p.Stats()
		return s.Behind == 0 && s.Streams > 0
	})
	return s
}

const (
	podA, podB = "Kubernetes//Pod/shop/a", "Kubernetes//Pod/shop/b"
	shopWeb    = "shop/web.shop.svc.cluster.local"
)

func TestEverything(t *testing.T) {
	p := newPlane(t, Config{})
	address, _ := serve(t, p, anywhere)
	c := connect(t, p, address)
	c.everything(addresses, nil)
	c.want(addresses) // the first one comes, though empty
	c.everything(policies, nil)
	c.want(policies)

	// One change of both kinds: addresses first.
	svc := service("web", netip.MustParseAddr("10.96.0.1"))
	change(t, p, Update{
		Workloads: []*workloadapi.Workload{web("node-a", "a", "10.0.0.1", svc)},
		Services:  []*workloadapi.Service{svc}, Policies: []*securityapi.Authorization{allow("one")},
	})
	r := c.want(addresses, podA, shopWeb)
	for _, resource := range r.GetResources() {
		if resource.GetVersion() == "" || len(resource.GetAliases()) > 0 {
			t.Errorf("resource %s has version %q and aliases %q, want one and none", resource.GetName(), resource.GetVersion(), resource.GetAliases())
		}
		var m workloadapi.Address
		if err := resource.GetResource().UnmarshalTo(proto.Message(&m)); err != nil {
			t.Error(err)
		}
	}
	if r := c.want(policies, "shop/one"); r.GetResources()[0].GetVersion() != "" {
		t.Errorf("policy has version %q, want none", r.GetResources()[0].GetVersion())
	}

	// The same again is no news; the second change is.
	change(t, p, Update{Workloads: []*workloadapi.Workload{web("node-a", "a", "10.0.0.1", svc)}})
	change(t, p, Update{
		Workloads: []*workloadapi.Workload{web("node-b", "b", "10.0.0.2")},
		Remove:    Names{Workloads: []string{podA, "nobody"}, Policies: []string{"shop/one"}},
	})
	c.want(addresses, podB, "-"+podA)
	c.want(policies, "-shop/one")
	s := settle(t, p)
	want := Stats{Workloads: 1, Services: 1, Streams: 1, Connects: 1, Requests: 8, Responses: 6, Acks: 6}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("Stats() (-want +got):\n%s", diff)
	}
}

func TestReconnect(t *testing.T) {
	p := newPlane(t, Config{})
	address, stop := serve(t, p, anywhere)
	change(t, p, Update{
		Workloads: []*workloadapi.Workload{web("node-a", "a", "10.0.0.1"), web("node-b", "b", "10.0.0.2")},
		Services:  []*workloadapi.Service{service("web")},
		Policies:  []*securityapi.Authorization{allow("one"), allow("two")},
	})
	c := connect(t, p, address)
	c.everything(addresses, nil)
	held := versions(c.want(addresses, podA, podB, shopWeb))
	c.everything(policies, nil)
	heldPolicies := versions(c.want(policies, "shop/one", "shop/two"))

	stop()
	if _, err := c.stream.Recv(); err == nil {
		t.Fatal("stream goes on after Serve() has returned")
	}
	change(t, p, Update{
		Workloads: []*workloadapi.Workload{web("node-a", "b", "10.0.0.3")},
		Remove:    Names{Services: []string{shopWeb}, Policies: []string{"shop/two"}},
	})
	serve(t, p, address)
	c = connect(t, p, address)
	c.everything(addresses, held)
	c.want(addresses, podB, "-"+shopWeb)
	c.everything(policies, heldPolicies)
	c.want(policies, "shop/one", "-shop/two") // without versions, all come again
}

func TestNack(t *testing.T) {
	p := newPlane(t, Config{})
	address, _ := serve(t, p, anywhere)
	c := connect(t, p, address)
	c.everything(addresses, nil)
	r := c.receive()
	c.send(addresses, &discoveryapi.DeltaDiscoveryRequest{ResponseNonce: r.GetNonce(), ErrorDetail: &discoveryapi.Status{Message: "no such thing"}})
	// Neither that nor the lack of an answer holds up what comes later.
	change(t, p, Update{Workloads: []*workloadapi.Workload{web("node-a", "a", "10.0.0.1")}})
	_ = c.receive()
	change(t, p, Update{Workloads: []*workloadapi.Workload{web("node-a", "b", "10.0.0.2")}})
	c.want(addresses, podB)
	c.everything(policies, nil)
	c.want(policies)
	s := settle(t, p)
	if s.Nacks != 1 || s.Acks != 2 || s.LastNack != "no such thing" {
		t.Errorf("Stats() = %+v, want 1 NACK, 2 ACKs and the text", s)
	}
}

// The steps are those that were recorded of istiod.
func TestOnDemand(t *testing.T) {
	p := newPlane(t, Config{})
	address, _ := serve(t, p, anywhere)
	svc := service("web", netip.MustParseAddr("10.96.0.1"))
	change(t, p, Update{
		Workloads: []*workloadapi.Workload{
			web("node-a", "a", "10.0.0.1", svc), web("node-b", "b", "10.0.0.2", svc), web("node-b", "c", "10.0.0.3"),
		},
		Services: []*workloadapi.Service{svc},
	})
	subscribe := func(c *client, names ...string) {
		t.Helper()
		c.send(addresses, &discoveryapi.DeltaDiscoveryRequest{ResourceNamesSubscribe: names})
	}
	const podC, podD = "Kubernetes//Pod/shop/c", "Kubernetes//Pod/shop/d"

	c := connect(t, p, address)
	c.onDemand(nil)
	held := versions(c.want(addresses, podA)) // of its own node
	subscribe(c, "/10.0.0.3")
	r := c.want(addresses, podC)
	maps.Copy(held, versions(r))
	if diff := cmp.Diff([]string{"/10.0.0.3"}, r.GetResources()[0].GetAliases()); diff != "" {
		t.Errorf("aliases (-want +got):\n%s", diff)
	}
	subscribe(c, "/10.99.99.99")
	c.want(addresses, "-/10.99.99.99")
	subscribe(c, "/10.99.99.99") // and again: a client waits for each answer
	c.want(addresses, "-/10.99.99.99")
	subscribe(c, "/10.96.0.1")
	maps.Copy(held, versions(c.want(addresses, shopWeb, podA, podB)))
	subscribe(c, "shop/nothing")
	c.want(addresses, "-shop/nothing")

	// What nobody asked for is not sent: not a pod, nor who now has an address
	// that was not found. What is: another pod of the service, and of the node.
	change(t, p, Update{Workloads: []*workloadapi.Workload{web("node-b", "e", "10.99.99.99")}})
	change(t, p, Update{Workloads: []*workloadapi.Workload{web("node-b", "d", "10.0.0.4", svc)}})
	maps.Copy(held, versions(c.want(addresses, podD)))
	change(t, p, Update{Workloads: []*workloadapi.Workload{web("node-a", "f", "10.0.0.5")}})
	maps.Copy(held, versions(c.want(addresses, "Kubernetes//Pod/shop/f")))
	change(t, p, Update{Remove: Names{Workloads: []string{"Kubernetes//Pod/shop/e", podC}}})
	c.want(addresses, "-"+podC)
	delete(held, podC)

	held["/10.96.0.1"], held["/10.0.0.3"] = "", "" // as clients do
	c = connect(t, p, address)
	c.onDemand(held)
	c.want(addresses, "-/10.0.0.3")
	change(t, p, Update{Workloads: []*workloadapi.Workload{web("node-b", "b", "10.0.0.6", svc)}})
	c.want(addresses, podB)

	// Istiod's answer to unsubscribing names all that is left.
	c.send(addresses, &discoveryapi.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: []string{"/10.96.0.1"}})
	c.want(addresses, "-"+podA, "-"+podB, "-"+podD, "-Kubernetes//Pod/shop/f", "-"+shopWeb)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", anywhere)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}
