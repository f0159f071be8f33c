package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ztunnel/proxy/config"
	"ztunnel/proxy/identity"
)

// makeIdentity makes the source of certificates.
func (p *process) makeIdentity(context.Context) error {
	p.crl = p.makeCRL()
	ca, err := p.certificateAuthority()
	if err != nil {
		return err
	}
	p.certificates = identity.NewManager(ca, identity.Config{
		CSRTimeout: p.cfg.CSRTimeout, Hold: warmupHold, Log: p.logs.Logger("identity"),
	})
	meter := p.telemetry.Meter("ztunnel/proxy/identity")
	return errors.Join(p.certificates.Register(meter), p.crl.Register(meter))
}

// warmupHold is longer than it takes the node agent to add the pods of a node one after the other, and shorter than a new pod's first
// container takes to start.
const warmupHold = 250 * time.Millisecond

// makeCRL makes the check for revoked certificates; nil if none is configured.
func (p *process) makeCRL() *identity.CRL {
	if p.cfg.CRLPath == "" {
		return nil
	}
	return identity.NewCRL(identity.CRLConfig{Path: p.cfg.CRLPath, Log: p.logs.Logger("crl")})
}

// certificateAuthority makes what signs certificates: the CA of the mesh, or
// one in this process.
func (p *process) certificateAuthority() (identity.CA, error) {
	options := identity.TLSOptions{TLS12: p.cfg.TLS12, PQC: p.cfg.PQC, Revocation: p.crl, Log: p.logs.Logger("tls")}
	if !p.cfg.FakeCA {
		return p.meshCA(options)
	}
	ca, err := identity.NewFakeCA(identity.FakeCAConfig{TTL: p.cfg.SecretTTL, TLS: options})
	if err != nil {
		return nil, fmt.Errorf("FAKE_CA: %w", err)
	}
	p.logs.Logger("identity").Warn("FAKE_CA is on: certificates are signed by a development root whose key is public; " +
		"anybody can take any identity. Never use this outside of development")
	return ca, nil
}

// meshCA asks the CA of the mesh. A shared process asks on behalf of each of
// its workloads, a dedicated one as who it is.
func (p *process) meshCA(options identity.TLSOptions) (identity.CA, error) {
	if p.cfg.CAAddress == "" {
		return nil, errors.New("CA_ADDRESS: ca_address must be set to use CA")
	}
	channel, err := p.caChannel()
	if err != nil {
		return nil, err
	}
	p.ca = identity.NewCAClient(identity.CAConfig{
		Channel: channel, TTL: p.cfg.SecretTTL, Impersonate: p.cfg.Mode == config.Shared, TLS: options,
		Log: p.logs.Logger("identity::caclient"),
	})
	return p.ca, nil
}
