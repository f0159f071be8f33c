package show

import (
	"fmt"
	"io"
	"net/netip"
	"os"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
)

// tell says what one can do while everything stays up.
func (w *world) tell(out io.Writer) {
	user := ""
	if !initialUser() {
		user = fmt.Sprintf("-U -t %d --preserve-credentials ", os.Getpid())
	}
	in := func(ns *mesh.Namespace) string { return fmt.Sprintf("nsenter %s--net=%s", user, ns.Path()) }
	web := netip.AddrPortFrom(serviceAddr, webService)
	near, far := w.ztunnels[0], w.ztunnels[1]
	metrics := func(z *cluster.Ztunnel) string { return fmt.Sprintf("curl -s http://%s/metrics", metricsOf(z)[0]) }
	admin := fmt.Sprintf("http://127.0.0.1:%d", mesh.AdminPort)
	fmt.Fprintln(out, "\nEverything stays up until Ctrl-C. In another terminal:")
	for _, c := range []struct {
		what    string
		where   *mesh.Namespace
		command string
	}{
		{"the shop uses the service, through the mesh", w.shopper.Namespace, fmt.Sprintf("curl -s http://%s/", web)},
		{"somebody outside of the mesh may not", w.outsider.Namespace, fmt.Sprintf("curl -s http://%s/", netip.AddrPortFrom(w.keeper.Addr, webTarget))},
		{"Prometheus reads the metrics of its own node's ztunnel", w.prometheus.Namespace, metrics(near)},
		{"and those of the other", w.prometheus.Namespace, metrics(far)},
		{"a stranger of the mesh may not", w.stranger.Namespace, metrics(far)},
		{"what the ztunnel of the stock's node knows", far.Pod.Namespace, fmt.Sprintf("curl -s %s/config_dump", admin)},
		{"log more", far.Pod.Namespace, fmt.Sprintf("curl -s -X POST '%s/logging?level=debug'", admin)},
		{"the redirection rules of a pod", w.keeper.Namespace, "nft list ruleset"},
	} {
		fmt.Fprintf(out, "  # %s\n  %s %s\n", c.what, in(c.where), c.command)
	}
	if w.prometheusServer != nil {
		fmt.Fprintf(out, "  # ask Prometheus\n  %s curl -s 'http://%s/api/v1/query?query=up'\n", in(w.prometheus.Namespace), prometheusAddr)
	}
	fmt.Fprintf(out, "Logs: %s/*.log\n", w.dir)
}

// initialUser tells whether the process is in the user namespace that the
// machine began with, which maps all ids to themselves.
func initialUser() bool {
	content, err := os.ReadFile("/proc/self/uid_map")
	var inside, outside, count uint64
	if err == nil {
		_, err = fmt.Sscan(string(content), &inside, &outside, &count)
	}
	return err == nil && inside == 0 && outside == 0 && count == 1<<32-1
}
