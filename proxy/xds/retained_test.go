package xds

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"ztunnel/proxy/api/discoveryapi"
)

// A version is given back as it came, whether or not it is kept as a number.
func TestVersionsRoundTrip(t *testing.T) {
	r := newRetained()
	want := make(map[string]string)
	for _, version := range []string{
		"", "0", "00", "1", "01", "f", "F", "aa82bef832db85c6", "2660f7399b9b1d2", "ffffffffffffffff", "10000000000000000",
		"0aa82bef832db85c", "v1", "x", "ab cd", "-1", "ü",
	} {
		name := "name " + version
		r.put(name, []byte("other"))
		r.put(name, []byte("123456789abc"))
		r.put(name, []byte(version))
		want[name] = version
	}
	versions, unclaimed := r.claims(claimBudget)
	if diff := cmp.Diff(want, versions); diff != "" || unclaimed != nil {
		t.Errorf("claims (-want +got):\n%s\nand %v unclaimed, want none", diff, unclaimed)
	}
	if r.len() != len(want) {
		t.Errorf("len = %d, want %d", r.len(), len(want))
	}
	for name := range want {
		r.remove(name)
	}
	if versions, _ := r.claims(claimBudget); versions != nil || r.len() != 0 {
		t.Errorf("after removing everything: %v", versions)
	}
}

func FuzzVersion(f *testing.F) {
	f.Add("aa82bef832db85c6")
	f.Add("0")
	f.Fuzz(func(t *testing.T, version string) {
		if h, ok := parseHash([]byte(version)); ok && strconv.FormatUint(h, 16) != version {
			t.Errorf("parseHash(%q) = %x", version, h)
		}
	})
}

// The size that is reckoned with is never less than what a request has.
func TestClaimSize(t *testing.T) {
	for _, n := range []int{0, 1, 100, 127, 128, 16_000, 17_000, 3_000_000} {
		name := strings.Repeat("n", n)
		m := &discoveryapi.DeltaDiscoveryRequest{InitialResourceVersions: map[string]string{name: "aa82bef832db85c6"}}
		data, err := codec{}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := claimSize(name, "aa82bef832db85c6"); got < data.Len() {
			t.Errorf("claimSize of a name of %d bytes = %d, want at least %d", n, got, data.Len())
		}
	}
}

// A rejection is text of bounded size, whatever the control plane sent.
func TestRejectionsAreBounded(t *testing.T) {
	var r rejections
	r.add("ns/name", errors.New("ns/name: decode error: unknown enumeration value 99"))
	if got := r.String(); got != "ns/name: decode error: unknown enumeration value 99" {
		t.Errorf("text %q, want the name once", got)
	}
	for range 1000 {
		r.add(strings.Repeat("name\xff", 10_000), errors.New(strings.Repeat("reason ", 10_000)))
	}
	got := r.String()
	if len(got) > maxRejectionText+100 || !utf8.ValidString(got) || r.count != 1001 || !strings.Contains(got, "; and 99") {
		t.Errorf("%d rejections in %d bytes: %.100s…%s", r.count, len(got), got, got[len(got)-20:])
	}
}

// A password in the address is shown nowhere.
func TestAddressIsRedacted(t *testing.T) {
	c := New(Config{Address: "https://user:secret@istiod:15012"})
	if got := c.Status().Address; got != "https://user:xxxxx@istiod:15012" {
		t.Errorf("address %s", got)
	}
}

// The node has what the environment says, typed entries over text over our own.
func TestNode(t *testing.T) {
	got, err := NewNode(NodeConfig{
		PodName: "ztunnel-a1", PodNamespace: "istio-system", InstanceIP: "10.10.1.2", NodeName: "node-a",
		Metadata:     map[string]string{"CLUSTER_ID": "Kubernetes", "NAME": "other", "TYPED": "text"},
		MetadataJSON: map[string]any{"TYPED": 2.0, "NULL": nil, "BOOL": true, "LIST": []any{1.0, "x"}, "OBJECT": map[string]any{"a": false}},
	})
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := structpb.NewStruct(map[string]any{
		"NAME": "other", "NAMESPACE": "istio-system", "INSTANCE_IPS": "10.10.1.2", "NODE_NAME": "node-a", "CLUSTER_ID": "Kubernetes",
		"TYPED": 2, "NULL": nil, "BOOL": true, "LIST": []any{1, "x"}, "OBJECT": map[string]any{"a": false},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &discoveryapi.Node{Id: "ztunnel~10.10.1.2~ztunnel-a1.istio-system~istio-system.svc.cluster.local", Metadata: metadata}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("node (-want +got):\n%s", diff)
	}
	if _, err := NewNode(NodeConfig{MetadataJSON: map[string]any{"BAD": make(chan int)}}); err == nil {
		t.Error("a value that is no JSON was accepted")
	}
}
