package show

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/mesh"
	"ztunnel/proxy/spiffe"
)

// certificates talks TLS to the HBONE port of pods and ztunnels, with a
// certificate that the CA gave out for it, and checks what they show.
func (w *world) certificates(ctx context.Context) (string, error) {
	own, roots, err := w.cluster.Plane.Issue(w.shopper.ID.String(), time.Minute)
	if err != nil {
		return "", err
	}
	type holder struct {
		id   spiffe.ID
		addr netip.Addr
	}
	holders := []holder{{w.keeper.ID, w.keeper.Addr}, {w.packer.ID, w.packer.Addr}, {w.shopper.ID, w.shopper.Addr}}
	for _, z := range w.ztunnels {
		holders = append(holders, holder{cluster.ZtunnelID, z.Pod.Addr})
	}
	var shortest time.Time
	for _, h := range holders {
		leaf, err := w.shows(ctx, netip.AddrPortFrom(h.addr, mesh.HBONEPort), &tls.Config{
			Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
			InsecureSkipVerify: true, // the name is an identity: verified by shows
		}, roots)
		if err != nil {
			return "", fmt.Errorf("%s: %w", h.id, err)
		}
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != h.id.String() {
			return "", fmt.Errorf("%s shows a certificate of %v", h.id, leaf.URIs)
		}
		if shortest.IsZero() || leaf.NotAfter.Before(shortest) {
			shortest = leaf.NotAfter
		}
	}
	signed := w.cluster.Plane.Stats().Certificates
	if signed < uint64(len(holders)) {
		return "", fmt.Errorf("the CA signed %d certificates, want one for each of %d holders at least", signed, len(holders))
	}
	return fmt.Sprintf("%d holders at port %d showed their own identity, signed by the CA's root, for %s; the CA has signed %d",
		len(holders), mesh.HBONEPort, time.Until(shortest).Round(time.Minute), signed), nil
}

// shows returns the certificate of who listens at addr, verified up to the roots.
func (w *world) shows(ctx context.Context, addr netip.AddrPort, config *tls.Config, roots *x509.CertPool) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	raw, err := w.outsider.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	peers := conn.ConnectionState().PeerCertificates
	if len(peers) == 0 {
		return nil, errors.New("no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range peers[1:] {
		between.AddCert(c)
	}
	_, err = peers[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return peers[0], err
}

// sources asks the web application of the stock whom it sees.
func (w *world) sources(ctx context.Context) (string, error) {
	client := w.shopper.HTTP()
	defer client.CloseIdleConnections()
	_, body, err := mesh.Get(ctx, client, "http://"+netip.AddrPortFrom(serviceAddr, webService).String()+"/")
	if err != nil {
		return "", err
	}
	if !strings.Contains(body, "You came from "+w.shopper.Addr.String()+":") {
		return "", fmt.Errorf("it says %q, want the address of the shop, %s", body, w.shopper.Addr)
	}
	return fmt.Sprintf("the stock's application says: %s", strings.TrimSpace(body)), nil
}
