package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"ztunnel/proxy/api/caapi"
	"ztunnel/proxy/spiffe"
)

const (
	// mostTTL is istiod's MAX_WORKLOAD_CERT_TTL.
	mostTTL = 90 * 24 * time.Hour
	// maxCSR bounds what is parsed of a request for a certificate, bytes.
	maxCSR = 16 << 10
)

// The texts of istiod.
var (
	errCaller        = status.Error(codes.Unauthenticated, "request authenticate failure")
	errImpersonation = status.Error(codes.Unauthenticated, "request impersonation authentication failure")
)

// CreateCertificate signs a certificate as istiod does: for the identity that
// the request's metadata names, if it has a workload on the caller's node, else
// for the caller's own. What the request for signing itself asks for is ignored
// but for its key. It is the method of the gRPC service.
func (p *Plane) CreateCertificate(ctx context.Context, r *caapi.IstioCertificateRequest) (*caapi.IstioCertificateResponse, error) {
	id, chain, err := p.createCertificate(ctx, r)
	p.mu.Lock()
	if err != nil {
		p.stats.Refused++
	} else {
		p.stats.Certificates++
	}
	p.mu.Unlock()
	if err != nil {
		p.log.Warn("certificate refused", slog.String("identity", id), slog.Any("error", err))
		return nil, err
	}
	p.log.Debug("certificate signed", slog.String("identity", id))
	return &caapi.IstioCertificateResponse{CertChain: chain}, nil
}

func (p *Plane) createCertificate(ctx context.Context, r *caapi.IstioCertificateRequest) (identity string, chain []string, err error) {
	who, err := p.authenticate(ctx)
	if err != nil {
		return "", nil, errCaller
	}
	own := spiffe.ID{TrustDomain: p.cfg.TrustDomain, Namespace: who.Namespace, ServiceAccount: who.ServiceAccount}
	identity = own.String()
	if asked := r.GetMetadata().GetFields()["ImpersonatedIdentity"].GetStringValue(); asked != "" {
		identity = asked
		if !p.mayImpersonate(who, asked) {
			return identity, nil, errImpersonation
		}
	}
	csr, err := parseCSR(r.GetCsr())
	if err != nil {
		return identity, nil, status.Errorf(codes.InvalidArgument, "CSR signing error (%v)", err)
	}
	ttl, err := p.life(r.GetValidityDuration())
	if err != nil {
		return identity, nil, status.Errorf(codes.Internal, "CSR signing error (%v)", err)
	}
	leaf, err := p.ca.leaf(csr.PublicKey, identity, ttl)
	if err != nil {
		return identity, nil, status.Errorf(codes.Internal, "CSR signing error (%v)", err)
	}
	return identity, []string{string(encodePEM(leaf)), string(p.ca.rootPEM)}, nil
}

// authenticate returns whom the token of a call stands for.
func (p *Plane) authenticate(ctx context.Context) (caller, error) {
	headers, _ := metadata.FromIncomingContext(ctx)
	for _, cluster := range headers.Get("clusterid") {
		if cluster != p.cfg.ClusterID {
			return caller{}, fmt.Errorf("cluster %q is not known", cluster)
		}
	}
	for _, value := range headers.Get("authorization") {
		if token, ok := strings.CutPrefix(value, "Bearer "); ok {
			return p.tokens.check(token)
		}
	}
	return caller{}, errors.New("no bearer token")
}

// mayImpersonate reports whether an identity has a workload on the caller's node.
// As with istiod, its trust domain does not matter.
func (p *Plane) mayImpersonate(who caller, identity string) bool {
	id, err := spiffe.Parse(identity)
	if err != nil || who.Node == "" {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.store.accounts[account{who.Node, accountID(id.Namespace, id.ServiceAccount)}] > 0
}

// life is how long a certificate lives that was asked for with so many seconds.
func (p *Plane) life(seconds int64) (time.Duration, error) {
	ttl := p.cfg.CertTTL
	switch {
	case seconds > int64(mostTTL/time.Second):
		return 0, fmt.Errorf("requested TTL %d s is greater than the max allowed TTL %s", seconds, mostTTL)
	case seconds > 0:
		ttl = time.Duration(seconds) * time.Second
	}
	if p.cfg.MaxCertTTL > 0 {
		ttl = min(ttl, p.cfg.MaxCertTTL)
	}
	return ttl, nil
}

func parseCSR(text string) (*x509.CertificateRequest, error) {
	if len(text) > maxCSR {
		return nil, errors.New("certificate signing request is too long")
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("certificate signing request is not properly encoded")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse certificate signing request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check certificate signing request: %w", err)
	}
	return csr, nil
}

// RootPEM returns the root certificate, of the CA and of the server.
func (p *Plane) RootPEM() []byte { return append([]byte(nil), p.ca.rootPEM...) }

// Issue makes a key and a certificate for an identity, given in its SPIFFE form,
// and returns the pool with the root beside it: for peers in tests and for load
// generators, which need no token. A ttl of 0 means the configured life.
func (p *Plane) Issue(id string, ttl time.Duration) (tls.Certificate, *x509.CertPool, error) {
	if _, err := spiffe.Parse(id); err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("issue certificate: %w", err)
	}
	if ttl == 0 {
		ttl = p.cfg.CertTTL
	}
	certificate, err := p.ca.issue(id, ttl)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("issue certificate for %s: %w", id, err)
	}
	return certificate, p.ca.pool(), nil
}
