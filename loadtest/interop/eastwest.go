package interop

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
)

// abroadTalk talks to the service in the other network, and records what reaches
// its node.
func (w *world) abroadTalk(ctx context.Context) (string, error) {
	capture, err := w.away.Capture()
	if err != nil {
		return "", err
	}
	before, err := w.gateway.stats(ctx)
	if err != nil {
		return "", err
	}
	secret := []byte(rand.Text())
	if w.remote, err = w.exchange(ctx, w.depotVIP, secret); err != nil {
		return "", errors.Join(err, capture.Close())
	}
	packets, err := capture.Stop()
	if err != nil {
		return "", err
	}
	streams, records := 0, 0
	for _, s := range packets.Streams() {
		if s.From.Port() == cluster.ControlPort || s.To.Port() == cluster.ControlPort {
			continue // began before
		}
		n, ok := mesh.TLSRecords(s.Data)
		from, to := w.at(w.gatewayPod, s.From.Port()), w.at(w.depot, mesh.HBONEPort)
		if ok = ok && (s.From == from && s.To == to || s.From == to && s.To.Addr() == from.Addr()); !ok {
			return "", fmt.Errorf("from %s to %s: not TLS, or not between gateway and server", s.From, s.To)
		}
		streams, records = streams+1, records+n
	}
	if hits := packets.Count(secret); hits > 0 || streams == 0 || packets.Lost > 0 {
		return "", fmt.Errorf("%d streams, %d packets lost, the secret was found %d times", streams, packets.Lost, hits)
	}
	after, err := w.gateway.stats(ctx)
	if err != nil {
		return "", err
	}
	outer, inner := after[tunnelsIn]-before[tunnelsIn], after[requestsIn]-before[requestsIn]
	if outer != 1 || inner != len(w.remote) {
		return "", fmt.Errorf("Envoy counts %d outer tunnels with %d requests, want 1 with %d", outer, inner, len(w.remote))
	}
	return fmt.Sprintf("%s;\n%d inner tunnels in one outer; behind the gateway %d streams of %d TLS records and nothing else",
		told(w.remote), inner, streams, records), nil
}

// abroadAccount compares what all three say about one connection. Either side
// knows the workload of the other from what it was told through the gateway.
func (w *world) abroadAccount(ctx context.Context) (string, error) {
	request, response, err := logged(w.remote)
	if err != nil {
		return "", err
	}
	authority := fmt.Sprintf("%s:%d", depotHost, servicePort)
	if _, err := awaitLine(ctx, w.client().Name, w.client().Log, 0, fields{
		"direction=outbound", "src.identity=" + shopID.String(), "dst.addr=" + w.hbone(w.gatewayPod), "dst.hbone_addr=" + authority,
		"dst.identity=" + depotID.String(), "dst.workload=" + depotID.ServiceAccount, "dst.service=" + depotHost,
		"bytes_sent=" + request, "bytes_recv=" + response,
	}); err != nil {
		return "", err
	}
	if _, err := awaitLine(ctx, w.remoteServer().Name, w.remoteServer().Log, 0, fields{
		"direction=inbound", "src.addr=" + w.from(w.gatewayPod), "src.identity=" + shopID.String(),
		"src.workload=" + shopID.ServiceAccount, "dst.addr=" + w.hbone(w.depot), "dst.hbone_addr=" + authority, "dst.workload=" + w.depot.Name, "dst.service=" + depotHost,
		"bytes_sent=" + response, "bytes_recv=" + request,
	}); err != nil {
		return "", err
	}
	if _, err := awaitLine(ctx, "Envoy "+w.gatewayPod.Name, w.gateway.Log, 0, fields{
		"authority=" + authority, "client=" + shopID.String(), "from=" + w.from(w.shop), "code=200",
	}); err != nil {
		return "", err
	}
	common := map[string]string{
		"source_principal": shopID.String(), "destination_principal": depotID.String(), "destination_service": depotHost, "response_flags": "-",
	}
	for reporter, z := range map[string]*cluster.Ztunnel{"source": w.client(), "destination": w.remoteServer()} {
		common["reporter"] = reporter
		if err := untilClosed(ctx, z, common, len(w.remote)); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("CONNECT %s in both tunnels; %s → gateway → %s, %s bytes there and %s back; the server's policy lets %s in only",
		authority, shopID, depotID, request, response, shopID.Principal()), nil
}
