package control

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"ztunnel/proxy/api/caapi"
	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/spiffe"
)

const (
	defaultCluster = "Kubernetes"
	// defaultMaxRequest is istiod's ISTIO_GPRC_MAXRECVMSGSIZE.
	defaultMaxRequest = 4 << 20
	// maxStreams bounds the xDS streams of all clients together.
	maxStreams = 1024
	// maxCalls bounds the calls of one connection that run at a time.
	maxCalls = 256
	// pingTime is istiod's keepalive interval; clients may ping twice as often.
	pingTime, pingTimeout = 30 * time.Second, 10 * time.Second
)

// Config is what a [Plane] needs to know. It is not changed after [New].
type Config struct {
	// TrustDomain of all identities; cluster.local if empty.
	TrustDomain string
	// CertTTL is the life of a certificate whose request names none; 24 h if 0.
	CertTTL time.Duration
	// MaxCertTTL, if not 0, shortens certificates that would live longer,
	// whatever was asked for: for tests that want to see renewals.
	MaxCertTTL time.Duration
	// ClusterID that clients must name, if they name any; Kubernetes if empty.
	ClusterID string
	// ServerNames are the DNS names and IP addresses of the server's
	// certificate, beside the listener's own address. If there are none:
	// istiod.istio-system.svc, localhost and the loopback addresses.
	ServerNames []string
	// MaxRequest is the largest message a client may send, bytes; 4 MiB, as
	// istiod's, if 0. A ztunnel that reconnects sends all names it holds.
	MaxRequest int
	// Log is told of streams, rejections and refused certificates; nil: nobody.
	Log *slog.Logger
}

// A Plane is a control plane. Its methods may be called concurrently.
type Plane struct {
	caapi.UnimplementedIstioCertificateServiceServer
	discoveryapi.UnimplementedAggregatedDiscoveryServiceServer

	cfg    Config
	log    *slog.Logger
	ca     *authority
	tokens tokens

	mu      sync.Mutex // over all below, and over what the streams want
	store   store
	streams map[*stream]struct{}
	pushes  uint64 // responses so far: their versions
	stats   Stats
}

// Stats is what a [Plane] has counted since it was made, and what it has now.
type Stats struct {
	Workloads, Services, Policies int // that it has

	Streams int // open now
	// Behind of them have not been sent, or have not answered, all there is.
	Behind int

	Connects  uint64 // streams that were opened
	Requests  uint64 // on streams, ACKs and NACKs included
	Responses uint64
	Acks      uint64
	Nacks     uint64
	LastNack  string // its text, cut at 1 KiB

	Certificates uint64 // signed for clients
	Refused      uint64 // requests for certificates, and streams, that were refused
}

// New makes a control plane with a root certificate of its own and without
// resources. It starts nothing.
func New(cfg Config) (*Plane, error) {
	cfg.TrustDomain = cmp.Or(cfg.TrustDomain, spiffe.DefaultTrustDomain)
	cfg.CertTTL = cmp.Or(cfg.CertTTL, 24*time.Hour)
	cfg.ClusterID = cmp.Or(cfg.ClusterID, defaultCluster)
	cfg.MaxRequest = cmp.Or(cfg.MaxRequest, defaultMaxRequest)
	if cfg.CertTTL < 0 || cfg.MaxCertTTL < 0 || cfg.MaxRequest < 0 {
		return nil, fmt.Errorf("control plane: negative life of certificates or size of messages")
	}
	if len(cfg.ServerNames) == 0 {
		cfg.ServerNames = []string{"istiod.istio-system.svc", "localhost", "127.0.0.1", "::1"}
	}
	ca, err := newAuthority(cfg.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Plane{
		cfg:     cfg,
		log:     log,
		ca:      ca,
		tokens:  newTokens(),
		store:   newStore(),
		streams: map[*stream]struct{}{},
	}, nil
}

// Serve serves xDS and the CA on ln, over TLS, until ctx ends; then it closes ln
// and all connections, and returns nil once everything it started has ended.
// It may be called again: to clients that is a restart which lost nothing.
func (p *Plane) Serve(ctx context.Context, ln net.Listener) error {
	certificate, err := p.ca.server(p.serverNames(ln))
	if err != nil {
		_ = ln.Close() // the other error counts
		return fmt.Errorf("serve control plane: %w", err)
	}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{certificate},
			MinVersion:   tls.VersionTLS12,
		})),
		grpc.MaxRecvMsgSize(p.cfg.MaxRequest),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingTime, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingTime / 2}),
		grpc.WaitForHandlers(true),
	)
	caapi.RegisterIstioCertificateServiceServer(server, p)
	discoveryapi.RegisterAggregatedDiscoveryServiceServer(server, p)

	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		server.Stop()
		close(stopped)
	})
	err = server.Serve(ln)
	if !stop() {
		<-stopped
	} else {
		server.Stop()
	}
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve control plane: %w", err)
	}
	return nil
}

// serverNames are the configured ones and the address of ln, if it has one.
func (p *Plane) serverNames(ln net.Listener) []string {
	names := slices.Clone(p.cfg.ServerNames)
	if at, err := netip.ParseAddrPort(ln.Addr().String()); err == nil && !at.Addr().IsUnspecified() {
		names = append(names, at.Addr().Unmap().WithZone("").String())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Stats returns the counters as they are now.
func (p *Plane) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Workloads, s.Services, s.Policies = p.store.count()
	s.Streams = len(p.streams)
	for stream := range p.streams {
		if stream.behind() {
			s.Behind++
		}
	}
	return s
}
