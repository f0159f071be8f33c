package workload

import "net/netip"

// addresses is a table by address within a network. It is divided by network and family: an IPv4 address takes four
// bytes as a key, a NetworkAddress forty, and a large mesh has a hundred thousand. Its zero value is empty, for reading.
type addresses[V any] map[string]*networkAddresses[V]

// networkAddresses are the addresses of one network. A v4-mapped IPv6 address is an IPv6 address.
type networkAddresses[V any] struct {
	v4 map[[4]byte]V
	v6 map[netip.Addr]V
}

// get returns the value of the address, or the zero value.
func (t addresses[V]) get(key NetworkAddress) (v V) {
	n := t[key.Network]
	switch {
	case n == nil:
		return v
	case key.Addr.Is4():
		return n.v4[key.Addr.As4()]
	}
	return n.v6[key.Addr]
}

func (t addresses[V]) put(key NetworkAddress, v V) {
	n := t[key.Network]
	if n == nil {
		n = &networkAddresses[V]{v4: make(map[[4]byte]V), v6: make(map[netip.Addr]V)}
		t[key.Network] = n
	}
	if key.Addr.Is4() {
		n.v4[key.Addr.As4()] = v
	} else {
		n.v6[key.Addr] = v
	}
}

// remove forgets the address, and the network with its last one.
func (t addresses[V]) remove(key NetworkAddress) {
	n := t[key.Network]
	if n == nil {
		return
	}
	if key.Addr.Is4() {
		delete(n.v4, key.Addr.As4())
	} else {
		delete(n.v6, key.Addr)
	}
	if len(n.v4)+len(n.v6) == 0 {
		delete(t, key.Network)
	}
}
