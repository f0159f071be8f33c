package xds

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"

	"google.golang.org/grpc"

	"ztunnel/proxy/api/discoveryapi"
)

// Channel is the way to the control plane. *istiod.Channel is one.
type Channel interface {
	// Dial returns a connection of its own for one stream. The client closes it.
	Dial() (*grpc.ClientConn, error)
	// Context adds to ctx the metadata of one stream.
	Context(ctx context.Context) (context.Context, error)
}

// Config configures a Client. It is not changed after use.
type Config struct {
	Channel Channel
	Address string             // of the control plane, for log and metrics; a password in it is not shown
	Node    *discoveryapi.Node // who we are: NewNode
	Types   []Type             // in the order in which they are asked for
	Log     *slog.Logger       // nil discards
	// StreamLog returns the logger of the stream with this number, the first being 1; it is for marking its lines. Nil
	// takes Log.
	StreamLog func(id int) *slog.Logger
}

// Type is one type of resources and what is done with them.
type Type struct {
	URL     string // e.g. type.googleapis.com/istio.workload.Address
	Handler Handler
	// OnDemand subscribes to nothing at first; single resources are asked for with Client.Demand. Such a type is not waited
	// for by Client.Synced.
	OnDemand bool
	// Known reports whether the state has what an on-demand key stands for. It may be called by any goroutine. Nil knows
	// nothing, so that only the control plane's answers count.
	Known func(key string) bool
}

// New returns a client. It does nothing until Run.
func New(cfg Config) *Client {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if u, err := url.Parse(cfg.Address); err == nil {
		cfg.Address = u.Redacted()
	}
	if cfg.StreamLog == nil {
		cfg.StreamLog = func(int) *slog.Logger { return cfg.Log }
	}
	c := &Client{cfg: cfg, budget: claimBudget, byURL: make(map[string]*resourceType, len(cfg.Types)), synced: make(chan struct{})}
	for _, t := range cfg.Types {
		if c.byURL[t.URL] != nil {
			panic(fmt.Sprintf("xds: type %s is configured twice", t.URL))
		}
		rt := &resourceType{Type: t, retained: newRetained()}
		if t.OnDemand {
			rt.demands = newDemands(t.Known)
		} else {
			c.awaited++
			rt.awaited = true
		}
		c.types = append(c.types, rt)
		c.byURL[t.URL] = rt
	}
	c.counts.init(c.types)
	if c.awaited == 0 {
		close(c.synced)
	}
	return c
}
