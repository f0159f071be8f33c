package show

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
)

var errNoTraffic = errors.New("there was no traffic to look at")

// sizes of the requests, in bytes. The last is unlike any other number, so that
// it can be found in logs.
var sizes = []int{64, 2_000_003, loggedSize}

const loggedSize = 100_271

// talk sends the secret from the shop to the stock, in connections of several
// sizes, and records what crosses the wire between their nodes.
func (w *world) talk(ctx context.Context) (_ string, err error) {
	w.secret = []byte(rand.Text())
	if w.capture, err = w.nodes[0].Capture(); err != nil {
		return "", err
	}
	for _, size := range sizes {
		for _, to := range w.services() {
			done, err := app.Say(ctx, w.shopper.Namespace, to, app.Payload(w.secret, size))
			if err != nil {
				return "", err
			}
			w.sent = append(w.sent, done)
		}
	}
	return "", nil
}

// totals are the bytes of all exchanges.
func (w *world) totals() (request, response int) {
	for _, s := range w.sent {
		request, response = request+s.Request, response+s.Response
	}
	return request, response
}

// search looks for the secret in all that crossed the wire. That it can be found
// is shown by a connection without ztunnel.
func (w *world) search(ctx context.Context) (string, error) {
	if w.capture == nil {
		return "", errNoTraffic
	}
	packets, err := w.capture.Stop()
	if err != nil {
		return "", err
	}
	w.packets = packets
	streams, records, err := onlyTLS(packets)
	if err != nil {
		return "", err
	}
	request, response := w.totals()
	hits := packets.Count(w.secret)
	switch {
	case len(w.sent) == 0:
		return "", errNoTraffic
	case packets.Lost > 0:
		return "", fmt.Errorf("%d of %d packets were not recorded", packets.Lost, packets.Lost+packets.Len())
	case hits > 0:
		return "", fmt.Errorf("the secret was found %d times in %d packets", hits, packets.Len())
	case packets.Bytes() < request+response:
		return "", fmt.Errorf("%d bytes were recorded, but %d sent", packets.Bytes(), request+response)
	}
	control, found, err := w.control(ctx)
	if err != nil {
		return "", fmt.Errorf("control: %w", err)
	}
	if found == 0 {
		return "", fmt.Errorf("control: the secret was not found in %d packets of plaintext: the search does not work", control)
	}
	return fmt.Sprintf("%d packets with %d bytes, none lost; %d TCP streams of %d TLS records and nothing else; secret found 0 times\n"+
		"control: %d packets of the same without ztunnel: secret found %d times",
		packets.Len(), packets.Bytes(), streams, records, control, found), nil
}

// onlyTLS checks that the recorded streams are TLS and nothing else. Those of
// the control plane began before the recording.
func onlyTLS(packets *mesh.Packets) (streams, records int, err error) {
	for _, s := range packets.Streams() {
		if s.From.Port() == cluster.ControlPort || s.To.Port() == cluster.ControlPort {
			continue
		}
		n, ok := mesh.TLSRecords(s.Data)
		if !s.Complete || !ok {
			return 0, 0, fmt.Errorf("from %s to %s: not all is TLS, or not all was recorded", s.From, s.To)
		}
		streams, records = streams+1, records+n
	}
	return streams, records, nil
}

// control sends the secret from machine to machine without ztunnel, and searches
// for it.
func (w *world) control(ctx context.Context) (packets, found int, err error) {
	capture, err := w.nodes[0].Capture()
	if err != nil {
		return 0, 0, err
	}
	to := netip.AddrPortFrom(w.cluster.ControlAddr().Addr(), echoTarget)
	if _, err := app.Say(ctx, w.outsider.Namespace, to, app.Payload(w.secret, loggedSize)); err != nil {
		return 0, 0, err
	}
	recorded, err := capture.Stop()
	if err != nil {
		return 0, 0, err
	}
	return recorded.Len(), recorded.Count(w.secret), nil
}

// ports looks at what was connected to.
func (w *world) ports(context.Context) (string, error) {
	if w.packets == nil {
		return "", errNoTraffic
	}
	ports := slices.DeleteFunc(w.packets.Ports(), func(port uint16) bool { return port == cluster.ControlPort })
	elsewhere, udp := w.packets.Elsewhere(mesh.HBONEPort, cluster.ControlPort), w.packets.UDP()
	if !slices.Equal(ports, []uint16{mesh.HBONEPort}) || elsewhere+udp > 0 {
		return "", fmt.Errorf("ports %d were connected to, %d TCP packets belong to neither %d nor the control plane, %d packets are UDP",
			ports, elsewhere, mesh.HBONEPort, udp)
	}
	control := w.packets.TCP() - w.packets.Elsewhere(cluster.ControlPort)
	return fmt.Sprintf("%d TCP packets, for user traffic, scrapes and refusals alike: all to or from %d; %d more were with the control plane; no UDP",
		w.packets.TCP()-control, mesh.HBONEPort, control), nil
}

// unanswered asks for metrics in plaintext HTTP and reports how long it took
// until the connection ended. That a byte came is an error.
func unanswered(ctx context.Context, from *mesh.Namespace, to netip.AddrPort) (time.Duration, error) {
	start := time.Now()
	c, err := from.Dial(ctx, to)
	if err != nil {
		return 0, fmt.Errorf("the pod's own capture should have taken the connection: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(start.Add(10 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: ztunnel\r\n\r\n"); err != nil && !app.Refused(err) {
		return 0, err
	}
	answer, err := io.ReadAll(c)
	if len(answer) > 0 {
		return 0, fmt.Errorf("%s asked %s and got %s", from.Name, to, strconv.Quote(string(answer[:min(len(answer), 80)])))
	}
	if err != nil && !app.Refused(err) {
		return 0, fmt.Errorf("%s asked %s: %w", from.Name, to, err)
	}
	return time.Since(start), nil
}
