package interop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/console"
	"ztunnel/loadtest/control"
	"ztunnel/proxy/api/securityapi"
	"ztunnel/proxy/api/workloadapi"
)

// sandwiched makes a captured Envoy the waypoint of service and workload: a
// ztunnel stands before it and behind it. What Envoy sends to the workload must
// not be led to the waypoint again, which it comes from.
func (w *world) sandwiched(ctx context.Context) (string, error) {
	pod, err := w.startSandwich(ctx)
	if err != nil {
		return "", err
	}
	if err := w.settle(ctx); err != nil {
		return "", err
	}
	z := w.client() // Envoy is on the client's node
	at, server := z.Log.Len(), w.server().Log.Len()
	request, response, err := w.greet(ctx, w.keeperVIP, app.Payload(nil, 4_000_037))
	if err != nil {
		return "", err
	}
	endpoint := w.at(w.keeper, targetPort).String()
	for _, want := range []fields{
		{"direction=outbound", "src.identity=" + shopID.String(), "dst.addr=" + w.hbone(pod), "dst.hbone_addr=" + w.keeperVIP.String()},
		{"direction=inbound", "src.identity=" + shopID.String(), "dst.addr=" + w.hbone(pod), "dst.hbone_addr=" + w.keeperVIP.String()},
		{"direction=outbound", "src.identity=" + waypointID.String(), "dst.addr=" + w.hbone(w.keeper), "dst.hbone_addr=" + endpoint},
	} {
		if _, err := awaitLine(ctx, z.Name, z.Log, at, append(want, "bytes_sent=…", "bytes_recv=…")); err != nil {
			return "", err
		}
	}
	if _, err := awaitLine(ctx, w.server().Name, w.server().Log, server, fields{
		"direction=inbound", "src.identity=" + waypointID.String(), "src.addr=" + w.from(pod),
		"bytes_sent=" + response, "bytes_recv=" + request,
	}); err != nil {
		return "", err
	}
	e := w.envoys[len(w.envoys)-1]
	_, err = awaitLine(ctx, "Envoy "+pod.Name, e.Log, 0, fields{
		"to=" + w.keeperVIP.String(), "from=" + w.from(w.shop), "client=" + shopID.String(), "received=" + request, "sent=" + response,
	})
	return fmt.Sprintf("%s bytes there, half-close, %s bytes back, each byte compared; Envoy read from the PROXY header\n%s as destination and %s as client",
		request, response, w.keeperVIP, shopID), err
}

// greet talks to the application after it has answered a few bytes, and returns
// how many bytes went either way. To close one's half of a connection at its
// begin is more than Envoy's listener filters stand: if the end is there before
// the header was read, they close the connection.
func (w *world) greet(ctx context.Context, to netip.AddrPort, payload []byte) (request, response string, err error) {
	s, err := w.open(ctx, to)
	if err != nil {
		return "", "", err
	}
	defer s.Close()
	if err := s.SetDeadline(time.Now().Add(console.ProofLimit)); err != nil {
		return "", "", err
	}
	var sending sync.WaitGroup
	var sendErr error
	sending.Go(func() {
		if _, sendErr = s.Write(payload); sendErr == nil {
			sendErr = s.CloseWrite()
		}
	})
	answer, err := readAll(s)
	sending.Wait()
	if err := errors.Join(sendErr, err); err != nil {
		return "", "", err
	}
	sent := 4*s.Pings + len(payload)
	if want := string(payload) + fmt.Sprintf("that was %d bytes\n", sent); answer != want {
		return "", "", fmt.Errorf("the answer to %d bytes is %d others, want %d", len(payload), len(answer), len(want))
	}
	return strconv.Itoa(sent), strconv.Itoa(4*s.Pings + len(answer)), nil
}

// startSandwich starts an Envoy in a captured pod, and makes it the waypoint.
func (w *world) startSandwich(ctx context.Context) (*cluster.Pod, error) {
	service := waypointService("sandwich", w.sandwichVIP)
	// Where the policy of the namespace would let nobody in: at its real port.
	anybody := control.AllowPolicy(control.PolicySpec{
		Namespace: waypointID.Namespace, Name: "anybody-to-the-waypoint", Principals: []string{"*"}, Ports: []uint16{sandwichPort},
	})
	err := w.cluster.Plane.Update(control.Update{Services: []*workloadapi.Service{service}, Policies: []*securityapi.Authorization{anybody}})
	if err != nil {
		return nil, err
	}
	pod, err := w.near.AddPod(ctx, cluster.Spec{
		Name: "sandwich-0", ID: waypointID, Services: []*workloadapi.Service{service},
		Adapt: func(workload *workloadapi.Workload) {
			workload.ApplicationTunnel = &workloadapi.ApplicationTunnel{Protocol: workloadapi.ApplicationTunnel_PROXY, Port: sandwichPort}
		},
	})
	if err != nil {
		return nil, err
	}
	_, err = w.startEnvoy(ctx, pod, func(files) ([]byte, error) {
		return sandwich{w.loopback(), []serviceRoute{{"keeper", w.keeperVIP, w.at(w.keeper, targetPort)}}}.config()
	})
	if err != nil {
		return nil, err
	}
	led := w.keeperService()
	led.Waypoint = byHostname(sandwichHost)
	w.keeper.Adapt = func(workload *workloadapi.Workload) { workload.Waypoint = byHostname(sandwichHost) }
	if err := w.cluster.Plane.Update(control.Update{Services: []*workloadapi.Service{led}}); err != nil {
		return nil, err
	}
	return pod, w.keeper.Publish(true)
}
