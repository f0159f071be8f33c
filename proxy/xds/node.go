package xds

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/structpb"

	"ztunnel/proxy/api/discoveryapi"
)

// NodeConfig is what the control plane is told about this process.
type NodeConfig struct {
	PodName, PodNamespace string // may be ""
	InstanceIP            string // must be an address, or the control plane refuses
	NodeName              string
	// Metadata overrides entries of the same name made from the fields above; MetadataJSON, whose values are as
	// encoding/json decodes them, overrides both.
	Metadata     map[string]string
	MetadataJSON map[string]any
}

// NewNode returns the node of all requests. The domain in its id is always cluster.local, as in the reference.
func NewNode(cfg NodeConfig) (*discoveryapi.Node, error) {
	fields := map[string]*structpb.Value{
		"NAME":         structpb.NewStringValue(cfg.PodName),
		"NAMESPACE":    structpb.NewStringValue(cfg.PodNamespace),
		"INSTANCE_IPS": structpb.NewStringValue(cfg.InstanceIP),
		"NODE_NAME":    structpb.NewStringValue(cfg.NodeName),
	}
	for key, text := range cfg.Metadata {
		fields[key] = structpb.NewStringValue(text)
	}
	for _, key := range slices.Sorted(maps.Keys(cfg.MetadataJSON)) {
		v, err := structpb.NewValue(cfg.MetadataJSON[key])
		if err != nil {
			return nil, fmt.Errorf("node metadata %s: %w", key, err)
		}
		fields[key] = v
	}
	return &discoveryapi.Node{
		Id: fmt.Sprintf("ztunnel~%s~%s.%s~%s.svc.cluster.local",
			cfg.InstanceIP, cfg.PodName, cfg.PodNamespace, cfg.PodNamespace),
		Metadata: &structpb.Struct{Fields: fields},
	}, nil
}
