package mesh

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"ztunnel/proxy/spiffe"

	"go.yaml.in/yaml/v3"
)

// Config is the content of a local configuration file, as ztunnel reads it
// without a control plane (LOCAL_XDS_PATH). It has the fields that are used
// here; the names and defaults of all are those of Istio's ztunnel.
type Config struct {
	Workloads []Workload `yaml:"workloads"`
	Services  []Service  `yaml:"services"`
	Policies  []Policy   `yaml:"policies"`
}

// Workload is a pod that ztunnel knows of.
type Workload struct {
	UID               string                       `yaml:"uid"`
	Name              string                       `yaml:"name"`
	Namespace         string                       `yaml:"namespace"`
	ServiceAccount    string                       `yaml:"serviceAccount"`
	TrustDomain       string                       `yaml:"trustDomain"`
	WorkloadIPs       []netip.Addr                 `yaml:"workloadIps"`
	Protocol          string                       `yaml:"protocol"` // TCP or HBONE
	Node              string                       `yaml:"node"`
	WorkloadName      string                       `yaml:"workloadName"`
	WorkloadType      string                       `yaml:"workloadType"`
	CanonicalName     string                       `yaml:"canonicalName"`
	CanonicalRevision string                       `yaml:"canonicalRevision"`
	ClusterID         string                       `yaml:"clusterId"`
	Services          map[string]map[uint16]uint16 `yaml:"services"` // namespace/hostname → service port → target port
}

// Service is a service that ztunnel knows of.
type Service struct {
	Name      string            `yaml:"name"`
	Namespace string            `yaml:"namespace"`
	Hostname  string            `yaml:"hostname"`
	VIPs      []string          `yaml:"vips"` // network/IP
	Ports     map[uint16]uint16 `yaml:"ports"`
}

// The actions of policies.
const (
	Allow = "Allow"
	Deny  = "Deny"
)

// ScopeNamespace is the scope of a policy for all workloads of its namespace.
const ScopeNamespace = "Namespace"

// Policy is an authorization policy.
type Policy struct {
	Name      string `yaml:"name"`
	Namespace string `yaml:"namespace"`
	Scope     string `yaml:"scope"`
	Action    string `yaml:"action"`
	DryRun    bool   `yaml:"dryRun"`
	// Rules are rules of clauses of matches: it takes any rule, of that all
	// clauses, and of each any match.
	Rules [][][]Match `yaml:"rules"`
}

// Match is a condition; all that is set must hold.
type Match struct {
	Principals       []Exact  `yaml:"principals,omitempty"`
	DestinationPorts []uint16 `yaml:"destinationPorts,omitempty"`
}

// Exact is a string match of the whole string.
type Exact string

// MarshalYAML implements yaml.Marshaler: a match is a tagged scalar.
func (e Exact) MarshalYAML() (any, error) {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!Exact", Value: string(e)}, nil
}

// AllowOnly is a policy for a namespace: the given identity may connect to the
// ports. Whom neither it nor another such policy allows is refused.
func AllowOnly(namespace, name string, who spiffe.ID, ports ...uint16) Policy {
	return Policy{
		Name: name, Namespace: namespace, Scope: ScopeNamespace, Action: Allow,
		Rules: [][][]Match{{{{Principals: []Exact{Exact(who.Principal())}, DestinationPorts: ports}}}},
	}
}

// DenyAll is a policy that refuses all connections to a namespace's ports.
func DenyAll(namespace, name string, ports ...uint16) Policy {
	return Policy{
		Name: name, Namespace: namespace, Scope: ScopeNamespace, Action: Deny,
		Rules: [][][]Match{{{{DestinationPorts: ports}}}},
	}
}

// Clone is a copy whose lists can be changed.
func (c Config) Clone() Config {
	return Config{
		Workloads: append([]Workload(nil), c.Workloads...),
		Services:  append([]Service(nil), c.Services...),
		Policies:  append([]Policy(nil), c.Policies...),
	}
}

// WriteFile makes the file, or replaces it in one step, so that a reader never
// sees half of it.
func (c Config) WriteFile(path string) error {
	content, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode local configuration: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".config-*")
	if err != nil {
		return fmt.Errorf("write local configuration: %w", err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it is gone when all went well
	if _, err := f.Write(content); err != nil {
		f.Close()
		return fmt.Errorf("write local configuration: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write local configuration: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write local configuration: %w", err)
	}
	return nil
}
