package local

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"ztunnel/proxy/rbac"
)

// readPolicyName reads the NAMESPACE/NAME of a policy.
func readPolicyName(v value) (string, error) {
	s, err := v.text()
	if err == nil && !strings.Contains(s, "/") {
		err = v.errorf("%q is not a policy: expected NAMESPACE/NAME", s)
	}
	return s, err
}

func readPolicy(v value) (*rbac.Policy, error) {
	p := &rbac.Policy{}
	err := v.object(
		required("name", into(&p.Name, readText)),
		required("namespace", into(&p.Namespace, readText)),
		required("scope", into(&p.Scope, readEnum(rbac.Global, rbac.Namespace, rbac.WorkloadSelector))),
		required("action", into(&p.Action, readEnum(rbac.Allow, rbac.Deny))),
		required("rules", intoList(&p.Rules, readRule)),
		required("dryRun", into(&p.DryRun, readBool)),
	)
	return p, err
}

func readRule(v value) (rbac.Rule, error) {
	list, err := readAll(v, readClause)
	return list, err
}

func readClause(v value) (rbac.Clause, error) {
	list, err := readAll(v, readMatch)
	return list, err
}

func readMatch(v value) (rbac.Match, error) {
	var m rbac.Match
	err := v.object(
		optional("namespaces", intoList(&m.Namespaces, readStringMatch)),
		optional("notNamespaces", intoList(&m.NotNamespaces, readStringMatch)),
		optional("serviceAccounts", intoList(&m.ServiceAccounts, readServiceAccount)),
		optional("notServiceAccounts", intoList(&m.NotServiceAccounts, readServiceAccount)),
		optional("principals", intoList(&m.Principals, readStringMatch)),
		optional("notPrincipals", intoList(&m.NotPrincipals, readStringMatch)),
		optional("sourceIps", intoList(&m.SourceIPs, readPrefix)),
		optional("notSourceIps", intoList(&m.NotSourceIPs, readPrefix)),
		optional("destinationIps", intoList(&m.DestinationIPs, readPrefix)),
		optional("notDestinationIps", intoList(&m.NotDestinationIPs, readPrefix)),
		optional("destinationPorts", intoList(&m.DestinationPorts, readPort)),
		optional("notDestinationPorts", intoList(&m.NotDestinationPorts, readPort)),
	)
	return m, err
}

func readServiceAccount(v value) (rbac.ServiceAccountMatch, error) {
	var m rbac.ServiceAccountMatch
	err := v.object(required("namespace", into(&m.Namespace, readText)), required("serviceAccount", into(&m.ServiceAccount, readText)))
	return m, err
}

var stringKinds = []rbac.StringKind{rbac.Exact, rbac.Prefix, rbac.Suffix, rbac.Presence}

// readStringMatch reads !Exact x, or {Exact: x} as JSON has it; and likewise Prefix, Suffix and Presence.
func readStringMatch(v value) (rbac.StringMatch, error) {
	kind, operand := strings.TrimPrefix(v.n.Tag, "!"), v
	if v.n.Kind == yaml.MappingNode && strings.HasPrefix(v.n.Tag, "!!") {
		if len(v.n.Content) != 2 {
			return rbac.StringMatch{}, v.errorf("expected a map with one key, one of Exact, Prefix, Suffix, Presence")
		}
		err := v.pairs(func(key string, item value) error {
			kind, operand = key, item
			return nil
		})
		if err != nil {
			return rbac.StringMatch{}, err
		}
	}
	for _, k := range stringKinds {
		if k.String() != kind {
			continue
		}
		if k == rbac.Presence {
			return rbac.StringMatch{Kind: k}, operand.empty()
		}
		if operand.n.Kind != yaml.ScalarNode || operand.n.Tag == "!!null" {
			return rbac.StringMatch{}, operand.errorf("expected a string, got %s", operand.kind())
		}
		return rbac.StringMatch{Kind: k, Value: operand.n.Value}, nil
	}
	return rbac.StringMatch{}, v.errorf("expected !Exact, !Prefix, !Suffix or !Presence and a value, got %s", v.kind())
}

// empty accepts the ways to write nothing: [], {}, null and no value at all.
func (v value) empty() error {
	if v.n.Kind == yaml.ScalarNode && slices.Contains([]string{"", "null", "~"}, v.n.Value) || v.n.Kind != yaml.ScalarNode && len(v.n.Content) == 0 {
		return nil
	}
	return v.errorf("Presence takes no value; expected [], got %s", v.kind())
}
