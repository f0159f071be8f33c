package istiod_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/metadata"

	"ztunnel/proxy/istiod"
)

const address = "https://istiod.istio-system.svc:15012"

// sent returns the metadata of a call.
func sent(t *testing.T, c *istiod.Channel) (metadata.MD, error) {
	t.Helper()
	ctx, err := c.Context(t.Context())
	if err != nil {
		return nil, err
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	return md, nil
}

func TestMetadata(t *testing.T) {
	headers := []istiod.Header{{"X-Extra", "1"}, {"Authorization", "Basic abc"}, {"clusterid", "other"}}
	tests := []struct {
		name string
		cfg  istiod.Config
		want metadata.MD
	}{
		{"nothing", istiod.Config{ClusterID: "Kubernetes"}, metadata.MD{}},
		{"headers alone", istiod.Config{ClusterID: "Kubernetes", Headers: headers}, metadata.MD{
			"x-extra": {"1"}, "authorization": {"Basic abc"}, "clusterid": {"other"},
		}},
		{"token", istiod.Config{Token: istiod.Token{Literal: "secret"}, ClusterID: "Kubernetes"}, metadata.MD{
			"authorization": {"Bearer secret"}, "clusterid": {"Kubernetes"},
		}},
		{"token wins", istiod.Config{Token: istiod.Token{Literal: "secret"}, ClusterID: "c1", Headers: headers}, metadata.MD{
			"x-extra": {"1"}, "authorization": {"Bearer secret"}, "clusterid": {"c1"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Address = address
			c, err := istiod.New(tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second call must not see the first one's
				got, err := sent(t, c)
				if err != nil {
					t.Fatal(err)
				}
				if len(got)+len(tt.want) > 0 {
					if diff := cmp.Diff(tt.want, got); diff != "" {
						t.Errorf("metadata (-want +got):\n%s", diff)
					}
				}
			}
		})
	}
}

// The file of the token is read for each call, and what is wrong with it is said without showing it.
func TestTokenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "istio-token")
	c, err := istiod.New(istiod.Config{Address: address, Token: istiod.Token{File: file}, ClusterID: "Kubernetes"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sent(t, c); err == nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: error = %v", err)
	}
	for _, tt := range []struct{ content, want, err string }{
		{content: "first", want: "Bearer first"},
		{content: " second\n", want: "Bearer second"},
		{content: "", err: "token file exists, but was empty"},
		{content: "\n", err: "token file exists, but was empty"},
		{content: "sec\nret", err: "characters that no header may have"},
		{content: "secr\xe9t", err: "characters that no header may have"},
		{content: strings.Repeat("secret", 20_000), err: "larger than"},
		{content: "third\r\n", want: "Bearer third"},
	} {
		write(t, file, []byte(tt.content))
		md, err := sent(t, c)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "sec") {
				t.Errorf("token %.20q: error = %v, want %q and no token", tt.content, err, tt.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("token %q: error = %v", tt.content, err)
		} else if got := md.Get("authorization"); len(got) != 1 || got[0] != tt.want {
			t.Errorf("token %q: authorization = %q, want %q", tt.content, got, tt.want)
		}
	}
}

// The metadata arrive.
func TestMetadataOnTheWire(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, nil, always(ca.issue(t, nil)))
	err := call(t, istiod.Config{
		Address: s.address, Roots: istiod.Roots{PEM: ca.pem()}, Token: istiod.Token{Literal: "secret"}, ClusterID: "c1",
		Headers: []istiod.Header{{"X-Extra", "1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	md := *s.calls.Load()
	for name, want := range map[string]string{"authorization": "Bearer secret", "clusterid": "c1", "x-extra": "1"} {
		if got := md.Get(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
}
