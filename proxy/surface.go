package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"

	"ztunnel/proxy/inbound"
	"ztunnel/proxy/rbac"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/surface"
)

// Surface puts the telemetry surface behind the policies of a pod: its virtual
// ports are reached like ports of the pod's application, and end in this
// process.
type Surface struct {
	Server *surface.Server
	// Readers are those who may read at all; nil leaves it to the policies.
	Readers *rbac.Principals
	// Shadowed reports whether an application of the pod listens on a port. It
	// is asked once per port, for a warning. Nil is never asked.
	Shadowed func(port uint16) bool
	// Exclusive means that there is no application: every port but those of
	// the surface is refused.
	Exclusive bool
	Log       *slog.Logger

	warned sync.Map // port → struct{}
}

// errNoSurface refuses a port that is kept for a surface which is switched off.
var errNoSurface = errors.New("this telemetry surface is not served")

// Open returns the surface at a port, or nil if it is an application's.
func (s *Surface) Open(port uint16) (inbound.VirtualPort, error) {
	f, ok := s.Server.Lookup(port)
	switch {
	case !ok && (s.Exclusive || s.Server.IsVirtual(port)):
		return nil, errNoSurface
	case !ok:
		return nil, nil
	}
	if _, asked := s.warned.LoadOrStore(port, struct{}{}); !asked && s.Shadowed != nil && s.Shadowed(port) {
		s.Log.Warn("an application listens on a port of the telemetry surface and cannot be reached there over HBONE",
			"port", port, "surface", f.Name)
	}
	return &virtualPort{s, f}, nil
}

// virtualPort is one surface behind the policies.
type virtualPort struct {
	*Surface
	surface *surface.Surface
}

// errNotAReader refuses a reader whom the policies allow.
var errNotAReader error = &notAReaderError{"not one of the telemetry readers"}

// errNeedsAllow refuses a reader whom no policy names.
var errNeedsAllow error = &notAReaderError{"this telemetry surface needs an explicit allow"}

type notAReaderError struct{ why string }

func (e *notAReaderError) Error() string {
	return "connection closed due to policy rejection: " + e.why
}
func (e *notAReaderError) FailureFlag() connection.Flag { return connection.FlagDeny }

// Authorize asks the list of readers, after the policies.
func (v *virtualPort) Authorize(peer string, explicit bool) error {
	if v.Readers != nil {
		if !v.Readers.Match(principal(peer)) {
			return errNotAReader
		}
		return nil
	}
	if v.surface.NeedsAllow && !explicit {
		return errNeedsAllow
	}
	return nil
}

// Denied records that a reader was refused.
func (v *virtualPort) Denied(src netip.AddrPort, peer string, err error) {
	v.surface.Denied(context.Background(), surface.Reader{Identity: peer, Src: src}, err)
}

// Serve answers the reader.
func (v *virtualPort) Serve(ctx context.Context, conn net.Conn, src netip.AddrPort, peer string) error {
	err := v.surface.ServeConn(ctx, conn, surface.Reader{Identity: peer, Src: src})
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// principal is a SPIFFE URI as policies write it.
func principal(uri string) string { return strings.TrimPrefix(uri, "spiffe://") }
