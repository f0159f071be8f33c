package socket

import (
	"log/slog"
	"os"
	"time"
)

// Keepalive are the keepalive settings of every TCP socket that carries user connections.
type Keepalive struct {
	// Enabled turns SO_KEEPALIVE on, with the three values below. False leaves it off.
	Enabled bool
	// Time is the idle time before the first probe (TCP_KEEPIDLE), rounded down to seconds, at least 1 s.
	Time time.Duration
	// Interval is the time between probes (TCP_KEEPINTVL), rounded as Time.
	Interval time.Duration
	// Retries is the number of unanswered probes that end a connection (TCP_KEEPCNT).
	Retries int
	// UserTimeout sets TCP_USER_TIMEOUT to Time + Retries × Interval, also when Enabled is false: unacknowledged data
	// then ends a connection after that time too.
	UserTimeout bool
}

// timeout returns the value of TCP_USER_TIMEOUT.
func (k *Keepalive) timeout() time.Duration {
	return k.Time + time.Duration(k.Retries)*k.Interval
}

// Config describes the sockets of one network namespace. It must not change after NewFactory.
type Config struct {
	// Mark is the SO_MARK of every dialled socket and, when NetNS is set, of every listening socket, whose accepted
	// sockets inherit it. 0 sets none. A mark that cannot be set is an error of that socket.
	Mark uint32
	// Keepalive applies to dialled sockets and to the connections accepted from the factory's listeners.
	Keepalive Keepalive
	// ReusePort makes listeners use SO_REUSEPORT instead of SO_REUSEADDR, so that a successor process can bind while
	// this one drains. Dialled sockets never have either.
	ReusePort bool
	// NetNS is the network namespace in which sockets are created; nil is the process's own. The file stays the
	// caller's and must stay open while the factory is used.
	NetNS *os.File
	// Log receives warnings about options that could not be set where that is not an error. Nil drops them.
	Log *slog.Logger
}

// Factory creates the sockets of one network namespace. It holds no sockets, needs no closing, and is safe for
// concurrent use.
type Factory struct {
	cfg     Config
	timeout time.Duration // dialTimeout, but in tests
	there   bool          // for use on a thread that is in the namespace; see Visit
}

// NewFactory returns a factory. It does not touch the namespace yet.
func NewFactory(cfg Config) *Factory {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Factory{cfg: cfg, timeout: dialTimeout}
}
