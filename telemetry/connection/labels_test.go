package connection

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ztunnel/telemetry/catalog"
)

// labelsOf are the labels of the only series of opened.
func labelsOf(t *testing.T, d *Details) map[string]string {
	t.Helper()
	r := NewRecorder(Config{})
	s := newScraper(t, r)
	r.Open(d).Close(nil)
	points := s.points(t)[famOpened]
	if len(points) != 1 {
		t.Fatalf("%d series of opened, want 1", len(points))
	}
	labels := map[string]string{}
	for _, kv := range points[0].Attributes.ToSlice() {
		labels[string(kv.Key)] = kv.Value.AsString()
	}
	return labels
}

func full(by string) map[string]string {
	return map[string]string{
		"reporter": by, "request_protocol": "tcp", "response_flags": "-", "connection_security_policy": "mutual_tls",
		"source_workload": "client", "source_canonical_service": "client-app", "source_canonical_revision": "v1",
		"source_workload_namespace": "shop", "source_principal": "spiffe://cluster.local/ns/shop/sa/shopper",
		"source_app": "client-app", "source_version": "v1", "source_cluster": "Kubernetes", "source_region": "r1", "source_zone": "z1",
		"destination_service": "echo.stock.svc.cluster.local", "destination_service_name": "echo", "destination_service_namespace": "stock",
		"destination_workload": "server", "destination_canonical_service": "server-app", "destination_canonical_revision": "v2",
		"destination_workload_namespace": "stock", "destination_principal": "spiffe://cluster.local/ns/stock/sa/keeper",
		"destination_app": "server-app", "destination_version": "v2", "destination_cluster": "Kubernetes",
		"destination_region": "r2", "destination_zone": "z2",
	}
}

func TestLabels(t *testing.T) {
	const u = "unknown"
	unknownEnd := func(side string) map[string]string {
		m := map[string]string{}
		for _, l := range catalog.TrafficLabels() {
			if strings.HasPrefix(l, side+"_") && !strings.HasPrefix(l, "destination_service") {
				m[l] = u
			}
		}
		return m
	}
	noService := map[string]string{"destination_service": u, "destination_service_name": u, "destination_service_namespace": u}
	plain := map[string]string{"connection_security_policy": u, "source_principal": u}
	for name, test := range map[string]struct {
		change func(d *Details)
		want   []map[string]string // over the full set
		absent []string
	}{
		"all known":      {func(d *Details) {}, nil, nil},
		"at the server":  {func(d *Details) { d.Reporter = Destination }, []map[string]string{{"reporter": "destination"}}, nil},
		"no service":     {func(d *Details) { d.Service = nil }, []map[string]string{noService}, nil},
		"double tunnels": {func(d *Details) { d.DestinationPrincipal = "spiffe://far/ns/a/sa/b" }, []map[string]string{{"destination_principal": "spiffe://far/ns/a/sa/b"}}, nil},
		// The record's principal stays, the policy tells the truth.
		"plain text": {func(d *Details) { d.MutualTLS = false }, []map[string]string{plain}, nil},
		"passthrough": {
			func(d *Details) { d.MutualTLS, d.Destination, d.Service = false, nil, nil },
			[]map[string]string{plain, noService, unknownEnd("destination")},
			nil,
		},
		"a stranger in plain text": {
			func(d *Details) { d.MutualTLS, d.Source, d.Reporter = false, nil, Destination },
			[]map[string]string{plain, unknownEnd("source"), {"reporter": "destination"}},
			nil,
		},
		"empty record": {
			func(d *Details) { d.Destination = &Workload{Known: true} },
			[]map[string]string{unknownEnd("destination"), {"destination_cluster": "Kubernetes"}},
			nil,
		},
		"from baggage": {
			func(d *Details) {
				d.Source = &Workload{Name: "w", Namespace: "n", CanonicalName: "svc", CanonicalRevision: "r", App: "w", Cluster: "c2", Region: "re", Zone: "zo"}
			},
			[]map[string]string{{
				"source_workload": "w", "source_workload_namespace": "n", "source_canonical_service": "svc", "source_canonical_revision": "r",
				"source_app": "w", "source_version": "r", "source_cluster": "c2", "source_region": "re", "source_zone": "zo",
			}},
			nil,
		},
		"baggage that lies": {
			func(d *Details) {
				d.Source = &Workload{Name: strings.Repeat("x", 254), Namespace: "a\xff", CanonicalName: strings.Repeat("y", 253)}
			},
			[]map[string]string{unknownEnd("source"), {
				"source_canonical_service": strings.Repeat("y", 253), "source_app": strings.Repeat("y", 253),
				"source_principal": "spiffe://cluster.local/ns/shop/sa/shopper",
			}},
			nil,
		},
		"no record at either end": {
			func(d *Details) {
				d.Source, d.Destination = &Workload{Region: "claimed", Zone: "claimed"}, nil
			},
			[]map[string]string{unknownEnd("source"), unknownEnd("destination"), {"source_principal": "spiffe://cluster.local/ns/shop/sa/shopper"}},
			[]string{"source_region", "source_zone", "destination_region", "destination_zone"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := call(Source)
			test.change(d)
			want := full("source")
			for _, m := range test.want {
				maps.Copy(want, m)
			}
			for _, l := range test.absent {
				delete(want, l)
			}
			if diff := cmp.Diff(want, labelsOf(t, d)); diff != "" {
				t.Errorf("labels, want (-) and got (+):\n%s", diff)
			}
		})
	}
}

// The labels are those of the catalog; active has all but the flags.
func TestLabels_AreTheCatalogs(t *testing.T) {
	r := NewRecorder(Config{})
	s := newScraper(t, r)
	r.SocketOpened(Source)
	r.Open(call(Source)).Close(&flagged{FlagTLS, "tls error: x"})
	seen := 0
	for name, points := range s.points(t) {
		m, ok := catalog.Find(name)
		if !ok {
			t.Errorf("%s is not in the catalog", name)
			continue
		}
		seen++
		want := slices.Sorted(slices.Values(m.Labels))
		for _, p := range points {
			var got []string
			for _, kv := range p.Attributes.ToSlice() {
				got = append(got, string(kv.Key))
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s has the labels %v, want %v", name, got, want)
			}
		}
	}
	if seen != 11 {
		t.Errorf("%d families, want 11", seen)
	}
}
