package interop

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"ztunnel/proxy/spiffe"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// What Envoy is told. That Envoy accepts it, the run of everything sees.
func TestConfig(t *testing.T) {
	own := files{certificate: "cert.pem", key: "key.pem", root: "root.pem"}
	server := spiffe.ID{TrustDomain: "cluster.local", Namespace: "stock", ServiceAccount: "keeper"}
	for name, config := range map[string]func() ([]byte, error){
		"waypoint": waypoint{
			files: own, listen: netip.MustParseAddr("10.64.1.10"), maxRequests: 50, servers: []spiffe.ID{server},
			services: []serviceRoute{{"keeper", netip.MustParseAddrPort("10.96.0.10:7"), netip.MustParseAddrPort("10.64.2.10:7007")}},
		}.config,
		"sandwich": sandwich{
			loopback, []serviceRoute{{"keeper", netip.MustParseAddrPort("10.96.0.10:7"), netip.MustParseAddrPort("10.64.2.10:7007")}},
		}.config,
		"gateway": gateway{
			files: own, listen: netip.MustParseAddr("10.64.1.11"),
			services: []gatewayRoute{{"depot", "depot.stock.svc.cluster.local:7", netip.MustParseAddr("10.64.3.10")}},
		}.config,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := config()
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", path, diff)
			}
		})
	}
}
