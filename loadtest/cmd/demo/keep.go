package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"

	"ztunnel/loadtest/mesh"
)

// tell says what one can do while everything stays up.
func (w *world) tell(out io.Writer) {
	user, self := "", ""
	if !initialUser() {
		user, self = "-U --preserve-credentials ", fmt.Sprintf("-t %d ", os.Getpid())
	}
	in := func(m *member) string { return fmt.Sprintf("nsenter -t %d %s-n", m.zt.PID(), user) }
	outside := fmt.Sprintf("nsenter %s%s--net=%s", self, user, w.outsider.Path())
	web := netip.AddrPortFrom(serviceAddr, webService)
	metrics := w.server.address()
	admin := fmt.Sprintf("http://127.0.0.1:%d", mesh.AdminPort)
	fmt.Fprintln(out, "\nEverything stays up until Ctrl-C. In another terminal:")
	for _, c := range []struct{ what, command string }{
		{"the shop uses the service, through the mesh", fmt.Sprintf("%s curl -s http://%s/", in(w.client), web)},
		{"somebody outside of the mesh may not", fmt.Sprintf("%s curl -s http://%s/", outside, netip.AddrPortFrom(w.server.pod.Addr, webTarget))},
		{"Prometheus reads the metrics of the stock's ztunnel", fmt.Sprintf("%s curl -s http://%s/metrics", in(w.prometheus), metrics)},
		{"a stranger of the mesh may not", fmt.Sprintf("%s curl -s http://%s/metrics", in(w.stranger), metrics)},
		{"what the stock's ztunnel knows", fmt.Sprintf("%s curl -s %s/config_dump", in(w.server), admin)},
		{"its metrics, for who may enter the pod", fmt.Sprintf("%s curl -s %s/stats/prometheus", in(w.server), admin)},
		{"log more", fmt.Sprintf("%s curl -s -X POST '%s/logging?level=debug'", in(w.server), admin)},
		{"the redirection rules of a pod", fmt.Sprintf("%s nft list ruleset", in(w.server))},
	} {
		fmt.Fprintf(out, "  # %s\n  %s\n", c.what, c.command)
	}
	if w.prometheusServer != nil {
		fmt.Fprintf(out, "  # ask Prometheus\n  %s curl -s 'http://%s/api/v1/query?query=up'\n", in(w.prometheus), prometheusAddr)
	}
	fmt.Fprintf(out, "Logs: %s/*.log\nWorkloads, services and policies, read again when changed: %s\n", w.dir, w.file)
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
