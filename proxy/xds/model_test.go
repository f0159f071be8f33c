package xds

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"ztunnel/proxy/api/discoveryapi"
)

// plane is a model of a control plane: what there is, and what it has told one client on the present stream.
type plane struct {
	content map[string]string // body by name; its version is a hash of it, or "" with versionless
	told    map[string]bool   // names that changed since they were told
	hashed  bool
}

func (p *plane) resource(name string) *discoveryapi.Resource {
	body := p.content[name]
	if !p.hashed {
		return res(name + "=" + body)
	}
	h := uint64(minHash)
	for _, c := range body {
		h = h*31 + uint64(c)
	}
	return res(name + "=" + body + "@" + strconv.FormatUint(h, 16))
}

// first answers the first request of a stream.
func (p *plane) first(r *discoveryapi.DeltaDiscoveryRequest) *discoveryapi.DeltaDiscoveryResponse {
	out := push(thingType, nil)
	for _, name := range slices.Sorted(maps.Keys(p.content)) {
		resource := p.resource(name)
		version, claimed := r.GetInitialResourceVersions()[name]
		if !claimed || version == "" || version != resource.GetVersion() {
			out.Resources = append(out.Resources, resource)
		}
	}
	for name := range r.GetInitialResourceVersions() {
		if _, ok := p.content[name]; !ok {
			out.RemovedResources = append(out.RemovedResources, name)
		}
	}
	p.told = make(map[string]bool)
	return out
}

// changes tells of everything that changed since the last time.
func (p *plane) changes() *discoveryapi.DeltaDiscoveryResponse {
	out := push(thingType, nil)
	for _, name := range slices.Sorted(maps.Keys(p.told)) {
		if _, ok := p.content[name]; ok {
			out.Resources = append(out.Resources, p.resource(name))
		} else {
			out.RemovedResources = append(out.RemovedResources, name)
		}
	}
	p.told = make(map[string]bool)
	return out
}

// Whatever is put, removed, rejected and claimed, and whenever streams end: once the control plane has said what there is
// to say, the state is its content, apart from what was rejected, which has the last content that was accepted.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newTable()
		c := New(Config{Types: []Type{{URL: thingType, Handler: h}}})
		typ := c.types[0]
		p := &plane{content: make(map[string]string), told: make(map[string]bool), hashed: rapid.Bool().Draw(t, "hashed")}
		want := make(map[string]string)
		deliver := func(r *discoveryapi.DeltaDiscoveryResponse) {
			b, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			in := &response{data: mem.BufferSlice{mem.SliceBuffer(b)}}
			if err := in.scan(); err != nil {
				t.Fatal(err)
			}
			rejected := false
			for _, m := range r.GetResources() {
				if body := string(m.GetResource().GetValue()); body[:3] == "bad" {
					rejected = true
				} else {
					want[m.GetName()] = body
				}
			}
			for name := range want {
				if _, ok := p.content[name]; !ok {
					delete(want, name)
				}
			}
			if got := c.apply(typ, in); (got != "") != rejected {
				t.Fatalf("rejection %q, want %t", got, rejected)
			}
			if !maps.Equal(want, h.content) {
				t.Fatalf("state %v, want %v", h.content, want)
			}
		}
		connect := func(budget int) {
			c.budget = budget
			request, _ := c.first(typ)
			deliver(p.first(request))
		}
		connect(claimBudget)
		name := rapid.Map(rapid.IntRange(0, 7), func(i int) string { return fmt.Sprint("name-", i) })
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				n := name.Draw(t, "name")
				p.content[n] = rapid.SampledFrom([]string{"one", "two", "six", "bad"}).Draw(t, "body")
				p.told[n] = true
			},
			"remove": func(t *rapid.T) {
				n := name.Draw(t, "name")
				delete(p.content, n)
				p.told[n] = true
			},
			"push":    func(*rapid.T) { deliver(p.changes()) },
			"connect": func(t *rapid.T) { connect(rapid.SampledFrom([]int{claimBudget, 100, 40, 0}).Draw(t, "budget")) },
			"lost": func(t *rapid.T) {
				c.budget = rapid.IntRange(0, 100).Draw(t, "budget")
				c.first(typ)
				connect(claimBudget)
			},
		})
		deliver(p.changes())
		if got, want := typ.retained.len(), len(want); got != want {
			t.Fatalf("%d resources retained, want %d", got, want)
		}
	})
}
