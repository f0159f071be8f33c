package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/securityapi"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/xds"
)

// policies is the handler of authorization policies.
type policies struct {
	set     *rbac.Set
	log     *slog.Logger
	message securityapi.Authorization // scratch

	// keys has the key of each policy whose resource has another name. Istio's never do.
	keys map[string]string
}

func newPolicies(cfg Config) *policies {
	return &policies{set: cfg.Policies, log: cfg.StateLog, keys: make(map[string]string)}
}

// Handle applies a response to the policy set.
func (p *policies) Handle(b *xds.Batch) {
	put := make(map[string]*rbac.Policy)
	removed := make(map[string]struct{})
	for r := range b.Resources() {
		policy, err := p.convert(r)
		if policy == nil {
			r.Reject(err)
			continue
		}
		if err != nil {
			r.RejectApplied(err)
		}
		p.log.LogAttrs(context.Background(), slog.LevelInfo, "handling RBAC update "+r.Name)
		key := policy.Key()
		if old := p.key(r.Name); old != key {
			// The resource had another content before, or none: then this removes nothing.
			delete(put, old)
			removed[old] = struct{}{}
			p.keys[r.Name] = key
		}
		put[key] = policy
	}
	for name := range b.Removed() {
		p.log.LogAttrs(context.Background(), slog.LevelInfo, "handling RBAC delete "+name)
		key := p.key(name)
		delete(p.keys, name)
		delete(put, key)
		removed[key] = struct{}{}
	}
	p.message.Reset() // it may be large
	p.set.Apply(slices.Collect(maps.Values(put)), slices.Collect(maps.Keys(removed)))
}

// key returns the key of the policy that came as a resource of this name.
func (p *policies) key(name string) string {
	if key, ok := p.keys[name]; ok {
		return key
	}
	return name
}

// convert returns the policy that is to be put into force. A policy with broken elements comes with an error: it is to be
// rejected, so that somebody notices, and in force nonetheless, for it fails closed.
func (p *policies) convert(r *xds.Resource) (*rbac.Policy, error) {
	if err := decode(r, &p.message); err != nil {
		return nil, err
	}
	policy, err := rbac.FromProto(&p.message)
	var broken *rbac.BrokenError
	if err != nil && !errors.As(err, &broken) {
		return nil, err
	}
	return policy, err
}

// decoding drops what this version does not know: nothing of a message is kept but what is converted.
var decoding = proto.UnmarshalOptions{DiscardUnknown: true}

// decode decodes a resource into m.
func decode(r *xds.Resource, m proto.Message) error {
	if err := decoding.Unmarshal(r.Body, m); err != nil {
		return fmt.Errorf("decode: failed to decode Protobuf message: %w", err)
	}
	return nil
}
