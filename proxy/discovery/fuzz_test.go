package discovery

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/workload"
	"ztunnel/proxy/xds"
)

// seeds are the resources of one type in the recordings' first responses.
func seeds(f *testing.F, typeURL string) {
	f.Helper()
	files, err := filepath.Glob("testdata/captures/*/01-*/*.pb")
	if err != nil || len(files) == 0 {
		f.Fatalf("no recordings: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		m := new(discoveryapi.DeltaDiscoveryResponse)
		if err := proto.Unmarshal(b, m); err != nil {
			f.Fatal(err)
		}
		if m.GetTypeUrl() != typeURL {
			continue
		}
		for _, r := range m.GetResources() {
			f.Add(r.GetResource().GetValue())
		}
	}
	f.Add([]byte{})
	f.Add([]byte{0x0a, 0x00})
	f.Add([]byte{0x12, 0x00})
}

// What is accepted as workload or service can be stored, shown and removed; and it is understood the same the second time.
func FuzzAddress(f *testing.F) {
	seeds(f, AddressType)
	f.Fuzz(func(t *testing.T, body []byte) {
		store := workload.NewStore(workload.Config{})
		a := newAddresses(Config{Store: store})
		w, s, err := a.decoder.Decode("name", body)
		if err != nil {
			if w != nil || s != nil {
				t.Fatalf("convert = %v, %v, %v", w, s, err)
			}
			return
		}
		if (w == nil) == (s == nil) {
			t.Fatalf("convert = %v, %v, want one of them", w, s)
		}
		var u workload.Update
		if w != nil {
			u.Workloads = append(u.Workloads, w)
			u.RemovedWorkloads = append(u.RemovedWorkloads, w.UID)
		} else {
			u.Services = append(u.Services, s)
			u.RemovedServices = append(u.RemovedServices, s.Key())
		}
		store.Apply(workload.Update{Workloads: u.Workloads, Services: u.Services})
		before := show(t, store)
		again, againService, err := a.decoder.Decode("name", body)
		if err != nil {
			t.Fatalf("second convert = %v", err)
		}
		if w != nil {
			store.Apply(workload.Update{Workloads: []*workload.Workload{again}})
		} else {
			store.Apply(workload.Update{Services: []*workload.Service{againService}})
		}
		if after := show(t, store); after != before {
			t.Errorf("state %s, the second time %s", before, after)
		}
		store.Apply(workload.Update{RemovedWorkloads: u.RemovedWorkloads, RemovedServices: u.RemovedServices})
		if len(store.Workloads())+len(store.Services())+len(store.StagedEndpoints()) > 0 {
			t.Errorf("left after the removal: %s", show(t, store))
		}
	})
}

func show(t *testing.T, store *workload.Store) string {
	t.Helper()
	b, err := json.Marshal([]any{store.Workloads(), store.DumpServices(), store.StagedEndpoints()})
	if err != nil {
		t.Fatalf("dump: %v", err)
	}
	return string(b)
}

// What is accepted as policy, or in force although it is broken, can be shown and decides.
func FuzzAuthorization(f *testing.F) {
	seeds(f, AuthorizationType)
	f.Fuzz(func(t *testing.T, body []byte) {
		set := rbac.NewSet(slog.New(slog.DiscardHandler), false)
		p := newPolicies(Config{Policies: set})
		policy, err := p.convert(&xds.Resource{Name: "name", Body: body})
		if policy == nil {
			if err == nil {
				t.Fatal("neither policy nor error")
			}
			return
		}
		set.Apply([]*rbac.Policy{policy}, nil)
		if _, err := json.Marshal(set.Policies()); err != nil {
			t.Errorf("dump: %v", err)
		}
		set.Authorize(rbac.Target{Namespace: policy.Namespace, Policies: []string{policy.Key()}}, &rbac.Connection{})
		set.Apply(nil, []string{policy.Key()})
		if n := len(set.Policies()); n > 0 {
			t.Errorf("%d policies after the removal", n)
		}
	})
}
