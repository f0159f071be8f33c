package interop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/console"
	"ztunnel/proxy/api/workloadapi"
)

var errNoTraffic = errors.New("there was no traffic to look at")

// sizes of the requests, in bytes. The last is unlike any other number, so that
// it can be found in logs.
var sizes = []int{1, 8_000_003, loggedSize}

const loggedSize = 100_271

// exchange talks to an address in requests of all sizes. The server answers
// after the client's half of the connection was closed, with more than it got.
func (w *world) exchange(ctx context.Context, to netip.AddrPort, secret []byte) (done []app.Exchange, err error) {
	for _, size := range sizes {
		if size < len(secret) {
			size = len(secret)
		}
		e, err := app.Say(ctx, w.shop.Namespace, to, app.Payload(secret, size))
		if err != nil {
			return nil, err
		}
		done = append(done, e)
	}
	return done, nil
}

// told is what an exchange was, in words.
func told(all []app.Exchange) string {
	request, response := 0, 0
	for _, e := range all {
		request, response = request+e.Request, response+e.Response
	}
	return fmt.Sprintf("%d connections, %d bytes there, half-close, %d bytes back; each byte compared; slowest %s",
		len(all), request, response, console.Took(slowest(all)))
}

func slowest(all []app.Exchange) (most time.Duration) {
	for _, e := range all {
		most = max(most, e.Took)
	}
	return most
}

func (w *world) talk(ctx context.Context) (_ string, err error) {
	if w.sent, err = w.exchange(ctx, w.keeperVIP, []byte("x")); err != nil {
		return "", err
	}
	return told(w.sent), nil
}

// logged is the exchange that can be found in logs.
func logged(all []app.Exchange) (request, response string, err error) {
	for _, e := range all {
		if e.Request == loggedSize {
			return strconv.Itoa(e.Request), strconv.Itoa(e.Response), nil
		}
	}
	return "", "", errNoTraffic
}

// account compares what all three say about one connection.
func (w *world) account(ctx context.Context) (string, error) {
	request, response, err := logged(w.sent)
	if err != nil {
		return "", err
	}
	endpoint := w.at(w.keeper, targetPort).String()
	if _, err := awaitLine(ctx, w.client().Name, w.client().Log, 0, fields{
		"direction=outbound", "src.identity=" + shopID.String(), "dst.addr=" + w.hbone(w.first.pod), "dst.hbone_addr=" + w.keeperVIP.String(),
		"dst.workload=" + w.first.pod.Name, "dst.identity=" + waypointID.String(), "dst.service=" + keeperHost,
		"bytes_sent=" + request, "bytes_recv=" + response,
	}); err != nil {
		return "", err
	}
	if _, err := awaitLine(ctx, w.server().Name, w.server().Log, 0, fields{
		"direction=inbound", "src.addr=" + w.from(w.first.pod), "src.identity=" + waypointID.String(),
		"src.workload=" + w.first.pod.Name, "dst.addr=" + w.hbone(w.keeper), "dst.hbone_addr=" + endpoint,
		"dst.workload=" + w.keeper.Name, "bytes_sent=" + response, "bytes_recv=" + request,
	}); err != nil {
		return "", err
	}
	for _, want := range []fields{
		{"authority=" + w.keeperVIP.String(), "code=200", "client=" + shopID.String(), "from=" + w.from(w.shop), "received=" + request, "sent=" + response},
		{"authority=" + endpoint, "server=" + keeperID.String(), "to=" + w.hbone(w.keeper), "received=" + request, "sent=" + response},
	} {
		if _, err := awaitLine(ctx, "Envoy "+w.first.pod.Name, w.first.Log, 0, want); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%s → %s → %s; %s bytes there and %s back in all 4 log lines; counted by both reporters", shopID, waypointID, keeperID, request, response),
		errors.Join(
			untilClosed(ctx, w.client(), map[string]string{
				"reporter": "source", "source_principal": shopID.String(), "destination_principal": waypointID.String(),
				"destination_workload": waypointID.ServiceAccount, "destination_service": keeperHost, "response_flags": "-",
			}, len(w.sent)),
			untilClosed(ctx, w.server(), map[string]string{
				"reporter": "destination", "source_principal": waypointID.String(), "source_workload": waypointID.ServiceAccount,
				"destination_principal": keeperID.String(), "response_flags": "-",
			}, len(w.sent)),
		)
}

// direct tries to use the server without the waypoint, from pods whose
// identities no policy allows.
func (w *world) direct(ctx context.Context) (string, error) {
	var slowest time.Duration
	for _, p := range []*cluster.Pod{w.shop, w.stranger} {
		from := w.server().Log.Len()
		took, err := refused(ctx, p.Namespace, w.at(w.keeper, targetPort))
		if err != nil {
			return "", err
		}
		slowest = max(slowest, took)
		if _, err := awaitLine(ctx, w.server().Name, w.server().Log, from, fields{
			"direction=inbound", "src.identity=" + p.ID.String(),
			"error=connection closed due to policy rejection: allow policies exist, but none allowed",
		}); err != nil {
			return "", err
		}
		if _, err := awaitLine(ctx, w.client().Name, w.client().Log, 0, fields{
			"direction=outbound", "src.identity=" + p.ID.String(), "dst.addr=" + w.hbone(w.keeper), "error=http status: 401 Unauthorized",
		}); err != nil {
			return "", err
		}
	}
	// The same identity as just now, by way of the waypoint.
	_, err := app.Say(ctx, w.shop.Namespace, w.keeperVIP, []byte("hello"))
	return fmt.Sprintf("%s only; %s and %s refused within %s (CONNECT: 401), and still served through the waypoint",
		waypointID.Principal(), shopID.Principal(), strangerID.Principal(), console.Took(slowest)), err
}

// workload gives the server's workload the waypoint, so that its address leads
// there too.
func (w *world) workload(ctx context.Context) (string, error) {
	w.keeper.Adapt = func(workload *workloadapi.Workload) { workload.Waypoint = byHostname(waypointHost) }
	if err := w.keeper.Publish(true); err != nil {
		return "", err
	}
	if err := w.settle(ctx); err != nil {
		return "", err
	}
	from, at := w.current.Log.Len(), w.client().Log.Len()
	to := w.at(w.keeper, targetPort)
	done, err := app.Say(ctx, w.stranger.Namespace, to, app.Payload(nil, loggedSize))
	if err != nil {
		return "", err
	}
	if _, err := awaitLine(ctx, w.client().Name, w.client().Log, at, fields{
		"direction=outbound", "dst.addr=" + w.hbone(w.current.pod), "dst.hbone_addr=" + to.String(), "dst.identity=" + waypointID.String(),
	}); err != nil {
		return "", err
	}
	for _, want := range []fields{
		{"authority=" + to.String(), "client=" + strangerID.String(), "code=200"},
		{"authority=" + to.String(), "server=" + keeperID.String(), "to=" + w.hbone(w.keeper)},
	} {
		if _, err := awaitLine(ctx, "Envoy "+w.current.pod.Name, w.current.Log, from, want); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("CONNECT %s by %s to Envoy, and by Envoy to %s; %d bytes there, %d back",
		to, strangerID.Principal(), w.hbone(w.keeper), done.Request, done.Response), nil
}
