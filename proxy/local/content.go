package local

import (
	"encoding/json"
	"fmt"

	"ztunnel/proxy/rbac"
	"ztunnel/proxy/workload"
)

// Content is what a local configuration says. It is not changed after Parse.
type Content struct {
	Workloads []*workload.Workload
	Services  []*workload.Service
	// Endpoints are those given with a service. What workloads say about their services is in Workloads.
	Endpoints map[workload.NamespacedHostname][]workload.StaticEndpoint
	Policies  []*rbac.Policy
	// Warnings name entries that replace an earlier one because they have the same name.
	Warnings []string
}

// Parse reads a configuration. The error is a *FieldError, or says where the document is no YAML.
func Parse(data []byte) (*Content, error) {
	root, err := parse(data)
	if err != nil {
		return nil, err
	}
	c := &Content{Endpoints: make(map[workload.NamespacedHostname][]workload.StaticEndpoint)}
	var services []service
	err = root.object(
		optional("workloads", intoList(&c.Workloads, readWorkload)),
		optional("services", intoList(&services, readService)),
		optional("policies", intoList(&c.Policies, readPolicy)),
	)
	if err != nil {
		return nil, err
	}
	for _, s := range services {
		c.Services = append(c.Services, s.Service)
		if len(s.endpoints) > 0 {
			c.Endpoints[s.Key()] = s.endpoints
		} else {
			delete(c.Endpoints, s.Key())
		}
	}
	c.warn()
	return c, nil
}

// warn finds names that are used twice. As in the reference, the later entry replaces the earlier one.
func (c *Content) warn() {
	c.Warnings = append(c.Warnings, duplicates("workloads", "uid", c.Workloads, func(w *workload.Workload) string { return w.UID })...)
	c.Warnings = append(c.Warnings, duplicates("services", "namespace/hostname", c.Services, func(s *workload.Service) string { return s.Key().String() })...)
	c.Warnings = append(c.Warnings, duplicates("policies", "namespace/name", c.Policies, (*rbac.Policy).Key)...)
}

func duplicates[T any](list, what string, items []T, key func(T) string) []string {
	var out []string
	seen := make(map[string]int, len(items))
	for i, item := range items {
		k := key(item)
		if first, ok := seen[k]; ok {
			out = append(out, fmt.Sprintf("%s[%d] replaces %s[%d]: both have the %s %q", list, i, list, first, what, k))
		}
		seen[k] = i
	}
	return out
}

// MarshalJSON returns the content as the staticConfig of the config dump: as the file says it, endpoints of services
// included only where they are given with the service.
func (c *Content) MarshalJSON() ([]byte, error) {
	form := struct {
		Policies  []*rbac.Policy         `json:"policies"`
		Services  []workload.ServiceDump `json:"services"`
		Workloads []json.RawMessage      `json:"workloads"`
	}{[]*rbac.Policy{}, []workload.ServiceDump{}, []json.RawMessage{}}
	form.Policies = append(form.Policies, c.Policies...)
	for _, s := range c.Services {
		d := workload.ServiceDump{Service: s, Endpoints: make(map[string]workload.EndpointDump)}
		for _, e := range c.Endpoints[s.Key()] {
			d.Endpoints[e.Key] = workload.EndpointDump{Port: e.Ports, Status: e.Status, WorkloadUID: e.WorkloadUID}
		}
		form.Services = append(form.Services, d)
	}
	for _, w := range c.Workloads {
		raw, err := w.MarshalStatic()
		if err != nil {
			return nil, fmt.Errorf("workload %q: %w", w.UID, err)
		}
		form.Workloads = append(form.Workloads, raw)
	}
	return json.Marshal(form)
}

// Apply makes c the whole content of the store and the policy set. Policies that either the old or the new workloads name
// are there all the time, so that no workload is without its policies in between.
func (c *Content) Apply(store *workload.Store, policies *rbac.Set) {
	policies.Apply(c.Policies, nil)
	store.Replace(c.Workloads, c.Services, c.Endpoints)
	policies.Replace(c.Policies)
}
