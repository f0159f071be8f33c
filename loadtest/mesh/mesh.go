package mesh

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
)

// Limits of what the addresses below can number.
const (
	maxNodes = 200
	maxPods  = 200 // of a node

	// outsideNumber is that of the place outside of all nodes.
	outsideNumber = 250
)

// Mesh is nodes and pods on one machine. Its methods may be called
// concurrently.
type Mesh struct {
	// IPv6 tells whether pods have IPv6 addresses too: whether the kernel can.
	IPv6 bool

	fabric  *Namespace
	outside *Node // the fabric, as one
	starter *starter

	mu         sync.Mutex
	namespaces []*Namespace // in the order they were made
	nodes      int
	open       []io.Closer // processes and captures
	closed     bool
}

// Node is a node: a namespace with a bridge that its pods are plugged into,
// and a link to the other nodes.
type Node struct {
	*Namespace
	mesh   *Mesh
	number int

	mu   sync.Mutex
	used [maxPods]bool
	next int // where the search for a free number begins
}

// Pod is a pod: a namespace with one link into the bridge of its node.
type Pod struct {
	*Namespace
	// Node is where it is.
	Node *Node
	// Addr is its IPv4 address.
	Addr netip.Addr
	// Addr6 is its IPv6 address; the zero Addr if the mesh has none.
	Addr6 netip.Addr

	number int
	remove sync.Once
}

// Addrs are all addresses of the pod, IPv4 first.
func (p *Pod) Addrs() []netip.Addr {
	if !p.Addr6.IsValid() {
		return []netip.Addr{p.Addr}
	}
	return []netip.Addr{p.Addr, p.Addr6}
}

var errClosed = errors.New("mesh is closed")

// New makes a mesh without nodes. It needs the capabilities of root in its user
// namespace, see [Enter]; without them the error is [os.ErrPermission].
// The caller must end the mesh with Close.
func New() (*Mesh, error) {
	m := &Mesh{starter: newStarter()}
	fabric, err := m.add("fabric")
	if err == nil {
		m.fabric, m.IPv6 = fabric, fabric.hasIPv6()
		m.outside = &Node{Namespace: fabric, mesh: m, number: outsideNumber}
		err = fabric.addBridge()
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// add makes a namespace that Close will end.
func (m *Mesh) add(name string) (*Namespace, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errClosed
	}
	ns, err := newNamespace(name)
	if err != nil {
		return nil, err
	}
	m.namespaces = append(m.namespaces, ns)
	return ns, nil
}

// forget ends a namespace before the mesh does.
func (m *Mesh) forget(ns *Namespace) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil // the end of the mesh did it
	}
	m.namespaces = slices.DeleteFunc(m.namespaces, func(other *Namespace) bool { return other == ns })
	return ns.close()
}

// keep remembers to close c at the end; after the end it does so at once.
func (m *Mesh) keep(c io.Closer) error {
	m.mu.Lock()
	if !m.closed {
		m.open = append(m.open, c)
		m.mu.Unlock()
		return nil
	}
	m.mu.Unlock()
	return errors.Join(errClosed, c.Close())
}

// Close kills all processes of the mesh and waits for their end, ends captures
// and removes all namespaces. Further calls do nothing.
func (m *Mesh) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	open, namespaces := m.open, m.namespaces
	m.mu.Unlock()

	var errs []error
	for _, c := range open {
		errs = append(errs, c.Close())
	}
	m.starter.stop()
	for _, ns := range namespaces {
		errs = append(errs, ns.close())
	}
	return errors.Join(errs...)
}

// Outside is the place between the nodes. Pods there are on none of them, as
// machines beside a cluster.
func (m *Mesh) Outside() *Node { return m.outside }

// AddNode makes a node.
func (m *Mesh) AddNode(name string) (*Node, error) {
	m.mu.Lock()
	m.nodes++
	number := m.nodes
	m.mu.Unlock()
	if number > maxNodes {
		return nil, fmt.Errorf("node %s: a mesh has at most %d nodes", name, maxNodes)
	}
	ns, err := m.add(name)
	if err != nil {
		return nil, err
	}
	port := fmt.Sprintf("node%d", number)
	for _, step := range []func() error{
		ns.addBridge,
		func() error { return addPair(m.fabric, port, number, ns, uplinkName) },
		func() error { return m.fabric.plug(port) },
		func() error { return ns.plug(uplinkName) },
		func() error { return m.fabric.awaitUp(port) },
		func() error { return ns.awaitUp(uplinkName) },
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("add node %s: %w", name, err)
		}
	}
	return &Node{Namespace: ns, mesh: m, number: number}, nil
}

// take takes a number for a pod: the one that has been free for longest, more
// or less, so that an address is not another pod's at once.
func (n *Node) take() (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range maxPods {
		if number := (n.next + i) % maxPods; !n.used[number] {
			n.used[number], n.next = true, number+1
			return number, nil
		}
	}
	return 0, fmt.Errorf("a node has at most %d pods", maxPods)
}

func (n *Node) give(number int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.used[number] = false
}

// portName is the name of a pod's link at its node.
func portName(number int) string { return fmt.Sprintf("pod%d", number+1) }

// AddPod makes a pod with addresses 10.64.NODE.n and fd64::NODE:n, n from 10.
// It lives until its [Pod.Remove] or the end of the mesh.
func (n *Node) AddPod(name string) (*Pod, error) {
	number, err := n.take()
	if err != nil {
		return nil, fmt.Errorf("add pod %s: %w", name, err)
	}
	ns, err := n.mesh.add(name)
	if err != nil {
		n.give(number)
		return nil, err
	}
	host := byte(10 + number)
	p := &Pod{Namespace: ns, Node: n, Addr: netip.AddrFrom4([4]byte{10, 64, byte(n.number), host}), number: number}
	prefixes := []netip.Prefix{netip.PrefixFrom(p.Addr, 16)}
	if n.mesh.IPv6 {
		p.Addr6 = netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x64, 13: byte(n.number), 15: host})
		prefixes = append(prefixes, netip.PrefixFrom(p.Addr6, 64))
	}
	port := portName(number)
	for _, step := range []func() error{
		func() error { return addPair(n.Namespace, port, maxNodes+1+number, ns, podLink) },
		func() error { return n.plug(port) },
		func() error { return ns.address(podLink, prefixes...) },
		func() error { return n.awaitUp(port) },
		func() error { return ns.awaitUp(podLink) },
	} {
		if err := step(); err != nil {
			return nil, errors.Join(fmt.Errorf("add pod %s: %w", name, err), p.Remove())
		}
	}
	return p, nil
}

// Remove cuts the pod off and lets go of its namespace, which then lives as long
// as processes and sockets in it. Its number may be used again. Further calls do
// nothing.
func (p *Pod) Remove() (err error) {
	p.remove.Do(func() {
		m := p.Node.mesh
		m.mu.Lock()
		closed := m.closed
		m.mu.Unlock()
		if closed {
			return // it is gone already
		}
		// The link first: the kernel removes it too, some time after the namespace.
		err = errors.Join(p.Node.unplug(portName(p.number)), m.forget(p.Namespace))
		p.Node.give(p.number)
	})
	return err
}

// Capture records all packets between this node and the others.
func (n *Node) Capture() (*Capture, error) { return n.mesh.capture(n.Namespace, uplinkName) }

// Start starts a process in the pod's namespace.
func (p *Pod) Start(c Command) (*Process, error) { return p.Node.mesh.start(p.Namespace, c) }
