// Package istiod owns the authenticated gRPC channel to the control plane and its certificate authority: where it is, whom
// we trust to be it, and how we tell it who we are.
//
// A [Channel] makes connections and the metadata of calls. What is said over them is the business of its users, packages
// xds and identity. It verifies the server by the roots and names it was given, reads root certificates and tokens anew
// whenever they are needed, and starts nothing by itself.
//
//	xds, identity ──Dial()──▶ *grpc.ClientConn ──TCP, TLS──▶ istiod
//	              ──Context(ctx)──▶ authorization, clusterid, further headers
package istiod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// The life of a connection. All but setupTimeout, idleTimeout and the retries are the reference's.
const (
	connectTimeout = 5 * time.Second  // of TCP, names looked up included
	setupTimeout   = 10 * time.Second // of TCP, TLS and the first frames together
	pingInterval   = 30 * time.Second // while a call runs
	pingTimeout    = 10 * time.Second

	// window bounds what the server may send that was not read, in bytes.
	window = 4 << 20

	keepaliveIdle     = 300 * time.Second
	keepaliveInterval = 75 * time.Second
	keepaliveProbes   = 9

	// idleTimeout closes a connection without calls. The next call makes a new one, perhaps to another replica, and does
	// not run into one that died unnoticed.
	idleTimeout = 5 * time.Minute
	// maxRedial is how long a connection object that cannot connect waits at most before it tries again. It is short since
	// the users of this package have a backoff of their own, which must not add up with it.
	maxRedial = time.Second
)

// defaultPort is that of https.
const defaultPort = "443"

// Config are the settings of a Channel.
type Config struct {
	// Address is where the server is, as a URI: https://HOST:PORT. With any other scheme a connection can never be made, as
	// in the reference: there is no plaintext.
	Address string
	// Roots verify the server's certificate.
	Roots Roots
	// AltHostname is one more name accepted in the server's certificate, beside the host of Address; "" is none.
	AltHostname string
	// Token authenticates us. The zero Token sends no authentication headers at all.
	Token Token
	// ClusterID is sent as clusterid together with a token.
	ClusterID string
	// Headers are further metadata of every call. Those of the token win over headers of the same name.
	Headers []Header
	// TLS12 also allows TLS 1.2. PQC leaves X25519MLKEM768 as the only key exchange. Both are as between proxies.
	TLS12, PQC bool
	// MaxMessage is the largest message received, in bytes; 0 is the default of grpc, 4 MiB.
	MaxMessage int
	// Gather is how long what is received may wait for more when it comes in many small parts; 0 is not at all. What comes
	// now and then never waits.
	Gather time.Duration
	// Log gets a debug line for each verified server. Nil logs nothing.
	Log *slog.Logger
}

// Header is an element of the metadata of a call.
type Header struct{ Name, Value string }

// Channel makes connections to the control plane. It is immutable and safe for concurrent use.
type Channel struct {
	cfg     Config
	secure  bool   // the scheme is https
	address string // HOST:PORT
	headers []string
}

// New returns a Channel. It checks what can be checked without reading a file or asking anybody: the address, the names and
// the headers.
func New(cfg Config) (*Channel, error) {
	u, err := url.Parse(cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("invalid uri: %w", err)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("invalid uri: %s: there is no host", u.Redacted())
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, fmt.Errorf("invalid uri: %s: the port must be 1 to 65535", u.Redacted())
	}
	if cfg.MaxMessage < 0 {
		return nil, fmt.Errorf("the largest message is negative: %d", cfg.MaxMessage)
	}
	if cfg.AltHostname != "" && !validHost(cfg.AltHostname) {
		return nil, fmt.Errorf("invalid alt hostname: %q", cfg.AltHostname)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Channel{cfg: cfg, secure: u.Scheme == "https", address: net.JoinHostPort(u.Hostname(), port)}
	if c.headers, err = fixedHeaders(&cfg); err != nil {
		return nil, err
	}
	return c, nil
}

// validHost reports whether s can be a name in a certificate: a DNS name or an IP address.
func validHost(s string) bool {
	if net.ParseIP(s) != nil {
		return true
	}
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.', r == '_':
		default:
			return false
		}
	}
	return len(s) <= 253
}

// Dial returns a fresh connection object, which the caller closes. It connects with its first call, and again whenever a
// call finds it without a connection; calls fail at once while it cannot. The call that finds the reason gets it.
func (c *Channel) Dial() (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithAuthority(c.address),
		grpc.WithTransportCredentials(credentials.NewTLS(c.tlsConfig())),
		grpc.WithContextDialer(c.dial),
		grpc.WithNoProxy(),
		grpc.WithUserAgent("ztunnel"),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithDisableHealthCheck(),
		grpc.WithIdleTimeout(idleTimeout),
		// Fixed windows: to measure one that fits, grpc would ping after each message.
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(window),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: maxRedial / 4, Multiplier: 2, Jitter: 0.2, MaxDelay: maxRedial},
			MinConnectTimeout: setupTimeout,
		}),
	}
	if c.cfg.MaxMessage > 0 {
		options = append(options, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(c.cfg.MaxMessage)))
	}
	// Names are looked up by the dialer, at each attempt; the target is nobody's.
	conn, err := grpc.NewClient("passthrough:///control-plane", options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.address, err)
	}
	return conn, nil
}

// errScheme is why a server without TLS is never reached.
var errScheme = errors.New("the control plane is only spoken to over TLS: the scheme of its address must be https")

// dial makes the TCP connection. The address from grpc is the target, which means nothing.
func (c *Channel) dial(ctx context.Context, _ string) (net.Conn, error) {
	if !c.secure {
		return nil, errScheme
	}
	dialer := net.Dialer{
		Timeout: connectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: keepaliveProbes,
		},
		// What is sent must be acknowledged as soon as a ping answered. Grpc sets that only where it knows the type.
		Control: func(_, _ string, raw syscall.RawConn) (err error) {
			return errors.Join(raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(pingTimeout.Milliseconds()))
			}), err)
		},
	}
	conn, err := dialer.DialContext(ctx, "tcp", c.address)
	if err != nil {
		return nil, err
	}
	paced, err := newPacedConn(conn.(*net.TCPConn), c.cfg.Gather)
	if err != nil { // it was closed, by nobody
		_ = conn.Close()
		return nil, err
	}
	return paced, nil
}
