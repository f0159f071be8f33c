package rbac

import (
	"encoding/json"
	"net/netip"
)

// MarshalJSON returns the form of the config dump: all fields always present,
// keys in alphabetical order, empty lists as [].
func (p *Policy) MarshalJSON() ([]byte, error) {
	rules := make([][][]matchJSON, len(p.Rules))
	for i, rule := range p.Rules {
		rules[i] = make([][]matchJSON, len(rule))
		for j, clause := range rule {
			rules[i][j] = make([]matchJSON, len(clause))
			for k := range clause {
				rules[i][j][k] = dumpMatch(&clause[k])
			}
		}
	}
	return json.Marshal(struct {
		Action    string          `json:"action"`
		DryRun    bool            `json:"dryRun"`
		Name      string          `json:"name"`
		Namespace string          `json:"namespace"`
		Rules     [][][]matchJSON `json:"rules"`
		Scope     string          `json:"scope"`
	}{p.Action.String(), p.DryRun, p.Name, p.Namespace, rules, p.Scope.String()})
}

// matchJSON is a Match in the config dump. Broken is ours: without it a match
// whose only element was broken would look like one that never matches.
type matchJSON struct {
	Broken              []string              `json:"broken,omitempty"`
	DestinationIPs      []netip.Prefix        `json:"destinationIps,omitempty"`
	DestinationPorts    []uint16              `json:"destinationPorts,omitempty"`
	Namespaces          []StringMatch         `json:"namespaces,omitempty"`
	NotDestinationIPs   []netip.Prefix        `json:"notDestinationIps,omitempty"`
	NotDestinationPorts []uint16              `json:"notDestinationPorts,omitempty"`
	NotNamespaces       []StringMatch         `json:"notNamespaces,omitempty"`
	NotPrincipals       []StringMatch         `json:"notPrincipals,omitempty"`
	NotServiceAccounts  []ServiceAccountMatch `json:"notServiceAccounts,omitempty"`
	NotSourceIPs        []netip.Prefix        `json:"notSourceIps,omitempty"`
	Principals          []StringMatch         `json:"principals,omitempty"`
	ServiceAccounts     []ServiceAccountMatch `json:"serviceAccounts,omitempty"`
	SourceIPs           []netip.Prefix        `json:"sourceIps,omitempty"`
}

func dumpMatch(m *Match) matchJSON {
	return matchJSON{
		Broken:              m.Broken.Names(),
		DestinationIPs:      m.DestinationIPs,
		DestinationPorts:    m.DestinationPorts,
		Namespaces:          m.Namespaces,
		NotDestinationIPs:   m.NotDestinationIPs,
		NotDestinationPorts: m.NotDestinationPorts,
		NotNamespaces:       m.NotNamespaces,
		NotPrincipals:       m.NotPrincipals,
		NotServiceAccounts:  m.NotServiceAccounts,
		NotSourceIPs:        m.NotSourceIPs,
		Principals:          m.Principals,
		ServiceAccounts:     m.ServiceAccounts,
		SourceIPs:           m.SourceIPs,
	}
}

// MarshalJSON returns {"Exact":"x"}, {"Prefix":"x"}, {"Suffix":"x"} or
// {"Presence":[]}, as the config dump spells patterns.
func (m StringMatch) MarshalJSON() ([]byte, error) {
	var value any = m.Value
	if m.Kind == Presence {
		value = []string{}
	}
	return json.Marshal(map[string]any{m.Kind.String(): value})
}
