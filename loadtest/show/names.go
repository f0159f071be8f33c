package show

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/console"
	"ztunnel/loadtest/mesh"
)

// nameserver is whom the pods ask. Nobody has the address: only who captures the
// question can answer it.
var nameserver = netip.MustParseAddrPort("10.96.0.53:53")

// names looks the service up from within a pod, as its resolver does, and uses it
// by name.
func (w *world) names(ctx context.Context) (string, error) {
	want := []netip.Addr{serviceAddr}
	if w.cluster.Mesh.IPv6 {
		want = append(want, serviceAddr6)
	}
	var figures []string
	for _, q := range []struct{ network, name string }{
		{"udp", serviceHost + "."},
		{"tcp", serviceHost + "."},
		// What becomes of keeper.stock when a pod's resolver has appended the first of
		// its search domains, as it does before it asks for the name alone.
		{"udp", "keeper.stock." + w.shopper.ID.Namespace + ".svc.cluster.local."},
	} {
		start := time.Now()
		got, err := w.lookup(ctx, q.network, q.name)
		if err != nil {
			return "", fmt.Errorf("over %s: %w", q.network, err)
		}
		took := console.Took(time.Since(start))
		if !slices.Equal(got, want) {
			return "", fmt.Errorf("over %s: %s has the addresses %v, want %v", q.network, q.name, got, want)
		}
		figures = append(figures, fmt.Sprintf("%s over %s after %s", strings.TrimSuffix(q.name, "."), strings.ToUpper(q.network), took))
	}
	for _, addr := range want {
		if _, err := app.Say(ctx, w.shopper.Namespace, netip.AddrPortFrom(addr, echoService), []byte("found by name")); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%v: %s; it answered there; no name server exists here", want, strings.Join(figures, ", ")), nil
}

// lookup asks for a name's addresses, which it returns in order.
func (w *world) lookup(ctx context.Context, network, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialNameserver(ctx, w.shopper.Namespace, network)
	}}
	addrs, err := resolver.LookupNetIP(ctx, "ip", name)
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs, err
}

// dialNameserver connects to the name server from within a namespace.
func dialNameserver(ctx context.Context, from *mesh.Namespace, network string) (conn net.Conn, err error) {
	err = from.Do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, nameserver.String())
		return err
	})
	return conn, err
}
