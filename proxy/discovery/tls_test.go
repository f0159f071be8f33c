package discovery

import (
	"crypto/tls"
	"encoding/pem"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/istiod"
	"ztunnel/proxy/xds"
	"ztunnel/proxy/xds/xdstest"
)

// overTLS returns a control plane on the loopback interface and the channel to it.
func overTLS(tb testing.TB, opts ...grpc.ServerOption) (*xdstest.Server, xds.Channel) {
	tb.Helper()
	certified := httptest.NewTLSServer(nil) // for its certificate
	defer certified.Close()
	plane, address := xdstest.NewTLS(tb, &tls.Config{Certificates: certified.TLS.Certificates, MinVersion: tls.VersionTLS13}, opts...)
	channel, err := istiod.New(istiod.Config{
		Address:   "https://" + address,
		Roots:     istiod.Roots{PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certified.Certificate().Raw})},
		Token:     istiod.Token{Literal: "token"},
		ClusterID: "east",
	})
	if err != nil {
		tb.Fatal(err)
	}
	return plane, channel
}

// A stream carries the metadata of the channel, and the content type of gRPC without a codec's name.
func TestStreamHeaders(t *testing.T) {
	var plane *xdstest.Server
	newWorld(t, func(c *Config) { plane, c.Channel = overTLS(t) })
	st := plane.Accept(t)
	for name, want := range map[string]string{"authorization": "Bearer token", "clusterid": "east", "content-type": "application/grpc"} {
		if got := st.Header.Get(name); !slices.Equal(got, []string{want}) {
			t.Errorf("header %s = %q, want %q", name, got, want)
		}
	}
}

// A control plane that recycles connections loses nothing, and it is no error: the stream goes on until the connection is
// cut, and the next one follows at once.
func TestConnectionsAreRecycled(t *testing.T) {
	t.Parallel() // gRPC takes a second for each
	var plane *xdstest.Server
	w := newWorld(t, func(c *Config) {
		plane, c.Channel = overTLS(t, grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: 200 * time.Millisecond, MaxConnectionAgeGrace: 100 * time.Millisecond,
		}))
	})
	for i := range 2 {
		st := plane.Accept(t)
		claims := st.Recv(t).GetInitialResourceVersions()
		st.Recv(t)
		if len(claims) != i {
			t.Errorf("stream %d claims %v, want %d resources", i, claims, i)
		}
		if rejected := w.push(st, AddressType, []proto.Message{pod(string(rune('a'+i)), "web")}); rejected != "" {
			t.Errorf("rejected: %s", rejected)
		}
	}
	plane.Accept(t)
	if got := w.Status().Ended; len(got) != 1 || got["Reconnect"] != 2 {
		t.Errorf("ends %v, want two of Reconnect", got)
	}
}
