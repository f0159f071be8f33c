package workload

import (
	"encoding/binary"
	"slices"

	api "ztunnel/proxy/api/workloadapi"
)

// internLimit is how many values of a kind a generation of an Interner holds.
const internLimit = 1 << 16

// Interner makes equal strings, gateways, port maps and service maps share memory. A large mesh has a hundred thousand
// workloads, but only a few thousand namespaces, nodes, localities and sets of services. It is used by one goroutine at a
// time, and may be kept for the life of the process: it forgets what has not been asked for in a long time. A nil Interner
// shares nothing.
type Interner struct {
	strings  generations[string, string]
	gateways generations[Gateway, *Gateway]
	ports    generations[string, PortMap]
	services generations[string, map[NamespacedHostname]PortMap]
	key      []byte   // scratch
	names    []string // scratch
}

// NewInterner returns an empty Interner.
func NewInterner() *Interner {
	return &Interner{
		strings:  newGenerations[string, string](),
		gateways: newGenerations[Gateway, *Gateway](),
		ports:    newGenerations[string, PortMap](),
		services: newGenerations[string, map[NamespacedHostname]PortMap](),
	}
}

// generations is a table that remembers between internLimit and twice as many of the values that were asked for last.
// When the young generation is full it becomes the old one, and the old one is dropped; what is asked for meanwhile moves
// to the young one. A value that is dropped while it is in use is not shared with later ones, nothing else.
type generations[K comparable, V any] struct {
	young, old map[K]V
}

func newGenerations[K comparable, V any]() generations[K, V] {
	return generations[K, V]{young: make(map[K]V)}
}

// put remembers a value that is new or comes from the old generation.
func (g *generations[K, V]) put(key K, v V) {
	if len(g.young) >= internLimit {
		g.old, g.young = g.young, make(map[K]V)
	}
	g.young[key] = v
}

func (g *generations[K, V]) len() int { return len(g.young) + len(g.old) }

// share returns the remembered value of the key, or makes and remembers it. The key is copied when need be.
func share[V any](g *generations[string, V], key []byte, create func() V) V {
	if v, ok := g.young[string(key)]; ok {
		return v
	}
	k := string(key)
	v, ok := g.old[k]
	if !ok {
		v = create()
	}
	g.put(k, v)
	return v
}

func (in *Interner) string(s string) string {
	if in == nil || s == "" {
		return s
	}
	if known, ok := in.strings.young[s]; ok {
		return known
	}
	if known, ok := in.strings.old[s]; ok {
		s = known
	}
	in.strings.put(s, s)
	return s
}

func (in *Interner) gateway(g Gateway) *Gateway {
	if in == nil {
		return &g
	}
	if known, ok := in.gateways.young[g]; ok {
		return known
	}
	shared, ok := in.gateways.old[g]
	if !ok {
		shared = &g
	}
	in.gateways.put(*shared, shared)
	return shared
}

// portMap converts a list of ports.
func (in *Interner) portMap(list []*api.Port) PortMap {
	if in == nil {
		return portsFromProto(list)
	}
	in.key = appendPorts(in.key[:0], list)
	return share(&in.ports, in.key, func() PortMap { return portsFromProto(list) })
}

// serviceMap converts the services of a workload. A whole map is shared, and within it hostnames and port maps.
func (in *Interner) serviceMap(pb map[string]*api.PortList) (map[NamespacedHostname]PortMap, error) {
	if in == nil || len(pb) == 0 {
		return servicesFromProto(pb, in)
	}
	in.names = in.names[:0]
	for name := range pb {
		in.names = append(in.names, name)
	}
	slices.Sort(in.names)
	b := in.key[:0]
	for _, name := range in.names {
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
		b = binary.AppendUvarint(b, uint64(len(pb[name].GetPorts())))
		b = appendPorts(b, pb[name].GetPorts())
	}
	in.key = b
	if known, ok := in.services.young[string(b)]; ok {
		return known, nil
	}
	whole := string(b) // the scratch is used again below
	shared, ok := in.services.old[whole]
	if !ok {
		var err error
		if shared, err = servicesFromProto(pb, in); err != nil {
			return nil, err
		}
	}
	in.services.put(whole, shared)
	return shared, nil
}

// appendPorts appends the numbers in their order. Lists that mean the same in another order are not shared.
func appendPorts(b []byte, list []*api.Port) []byte {
	for _, p := range list {
		b = binary.BigEndian.AppendUint16(b, uint16(p.GetServicePort()))
		b = binary.BigEndian.AppendUint16(b, uint16(p.GetTargetPort()))
	}
	return b
}
