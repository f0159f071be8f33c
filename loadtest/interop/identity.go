package interop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/console"
	"ztunnel/loadtest/control"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/spiffe"
)

// suspect is a peer of which another identity is expected than it has.
type suspect struct {
	right, wrong spiffe.ID
	expect       func(spiffe.ID) error // tells the control plane
	service      netip.AddrPort        // that leads to it
	via          *cluster.Pod          // whom ztunnel dials
	server       *cluster.Ztunnel      // of the service
	as           spiffe.ID             // who reaches the server
}

func (w *world) wrongWaypoint(ctx context.Context) (string, error) {
	return w.mistrusted(ctx, suspect{
		right: waypointID, wrong: identity(waypointID.Namespace, "another"),
		service: w.keeperVIP, via: w.current.pod, server: w.server(), as: waypointID,
		expect: func(id spiffe.ID) error {
			w.current.pod.Adapt = func(workload *workloadapi.Workload) { workload.ServiceAccount = id.ServiceAccount }
			return w.current.pod.Publish(false)
		},
	})
}

func (w *world) wrongGateway(ctx context.Context) (string, error) {
	return w.mistrusted(ctx, suspect{
		right: gatewayID, wrong: identity(gatewayID.Namespace, "another"), expect: w.expectGateway,
		service: w.depotVIP, via: w.gatewayPod, server: w.remoteServer(), as: shopID,
	})
}

func (w *world) wrongServer(ctx context.Context) (string, error) {
	return w.mistrusted(ctx, suspect{
		right: depotID, wrong: identity(depotID.Namespace, "another"),
		service: w.depotVIP, via: w.gatewayPod, server: w.remoteServer(), as: shopID,
		expect: func(id spiffe.ID) error {
			return w.cluster.Plane.Update(control.Update{Services: []*workloadapi.Service{w.depotService(id)}})
		},
	})
}

// mistrusted makes the mesh expect the wrong identity, sees that nothing gets
// through, and makes it expect the right one again, be it for those who come
// after a failure.
func (w *world) mistrusted(ctx context.Context, s suspect) (string, error) {
	err := errors.Join(s.expect(s.wrong), w.settle(ctx))
	var figure string
	if err == nil {
		figure, err = w.unserved(ctx, s)
	}
	if err := errors.Join(err, s.expect(s.right), w.settle(ctx)); err != nil {
		return "", err
	}
	if _, err := app.Say(ctx, w.shop.Namespace, s.service, []byte("hello")); err != nil {
		return "", fmt.Errorf("with the right identity again: %w", err)
	}
	return figure + ";\nserved again with the right one", nil
}

// unserved sees that the service is not served because the suspect has the wrong
// identity.
func (w *world) unserved(ctx context.Context, s suspect) (string, error) {
	reached := map[string]string{"reporter": "destination", "source_principal": s.as.String()}
	before, err := sum(ctx, s.server, openedTotal, reached)
	if err != nil {
		return "", err
	}
	from := w.client().Log.Len()
	after, err := refused(ctx, w.shop.Namespace, s.service)
	if err != nil {
		return "", err
	}
	line, err := awaitLine(ctx, w.client().Name, w.client().Log, from, fields{"direction=outbound", "dst.addr=" + w.hbone(s.via), "error=…"})
	if err != nil {
		return "", err
	}
	text := value(line, "error")
	if want := fmt.Sprintf("identity verification error: peer did not present the expected SAN (%s), got %s", s.wrong, s.right); !strings.Contains(text, want) {
		return "", fmt.Errorf("the client's ztunnel logs error %q, want in it %q", text, want)
	}
	n, err := sum(ctx, s.server, openedTotal, reached)
	if err == nil && n != before {
		err = fmt.Errorf("%v connections have reached the server, want the %v of before", n, before)
	}
	return fmt.Sprintf("closed within %s: %s", console.Took(after), text), err
}
