package workload

import (
	"encoding/binary"
	"maps"
	"slices"
)

// internLimit is how many values of a kind an Interner remembers. Beyond that it forgets all and begins anew: sharing gets
// worse, nothing else.
const internLimit = 1 << 16

// Interner makes equal strings, port maps and service maps share memory. A large mesh has a hundred thousand workloads, but
// only a few thousand namespaces, nodes, localities and sets of services. It is used by one goroutine at a time; a nil
// Interner shares nothing.
type Interner struct {
	strings  map[string]string
	ports    map[string]PortMap
	services map[string]map[NamespacedHostname]PortMap
	key      []byte // scratch
}

// NewInterner returns an empty Interner.
func NewInterner() *Interner {
	return &Interner{
		strings:  make(map[string]string),
		ports:    make(map[string]PortMap),
		services: make(map[string]map[NamespacedHostname]PortMap),
	}
}

func (in *Interner) string(s string) string {
	if in == nil || s == "" {
		return s
	}
	if known, ok := in.strings[s]; ok {
		return known
	}
	remember(in.strings, s, s)
	return s
}

func remember[K comparable, V any](m map[K]V, key K, v V) {
	if len(m) >= internLimit {
		clear(m)
	}
	m[key] = v
}

func (in *Interner) portMap(m PortMap) PortMap {
	if in == nil {
		return m
	}
	in.key = appendPorts(in.key[:0], m)
	if known, ok := in.ports[string(in.key)]; ok {
		return known
	}
	remember(in.ports, string(in.key), m)
	return m
}

// serviceMap shares a whole map of services and, within it, hostnames and port maps.
func (in *Interner) serviceMap(m map[NamespacedHostname]PortMap) map[NamespacedHostname]PortMap {
	if in == nil || len(m) == 0 {
		return m
	}
	b := in.key[:0]
	for _, key := range slices.SortedFunc(maps.Keys(m), NamespacedHostname.compare) {
		for _, s := range []string{key.Namespace, key.Hostname} {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
		b = binary.AppendUvarint(b, uint64(len(m[key])))
		b = appendPorts(b, m[key])
	}
	in.key = b
	if known, ok := in.services[string(b)]; ok {
		return known
	}
	whole := string(b)
	shared := make(map[NamespacedHostname]PortMap, len(m))
	for key, ports := range m {
		shared[NamespacedHostname{in.string(key.Namespace), in.string(key.Hostname)}] = in.portMap(ports)
	}
	remember(in.services, whole, shared)
	return shared
}

// appendPorts appends an unambiguous form of the map: its pairs in order.
func appendPorts(b []byte, m PortMap) []byte {
	pairs := make([]uint32, 0, 16)
	for from, to := range m {
		pairs = append(pairs, uint32(from)<<16|uint32(to))
	}
	slices.Sort(pairs)
	b = slices.Grow(b, 4*len(pairs))
	for _, p := range pairs {
		b = binary.BigEndian.AppendUint32(b, p)
	}
	return b
}
