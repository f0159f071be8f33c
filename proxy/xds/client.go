package xds

import (
	"context"
	"log/slog"
	"time"
)

// Client is the one client of the control plane in a process. Run is for one goroutine, everything else for any.
type Client struct {
	cfg    Config
	types  []*resourceType // in the order of the first requests
	byURL  map[string]*resourceType
	counts counts

	awaited int           // types without an accepted response; of Run
	synced  chan struct{} // closed when there are none

	budget  int // bytes of a request that may be claims; of Run
	backoff backoff
}

// resourceType is one type and what the client remembers of it. Everything but demands belongs to Run.
type resourceType struct {
	Type

	retained *retained
	awaited  bool     // no response was accepted yet
	demands  *demands // nil unless on demand

	// unclaimed are resources of which the stream has not said that they are held. The first response has those that still
	// exist; nil after it.
	unclaimed map[string]struct{}
}

// Synced returns a channel that is closed when a response of each type that is not on demand was accepted, be it on one
// stream or several. It stays closed.
func (c *Client) Synced() <-chan struct{} { return c.synced }

// Run keeps a stream to the control plane until ctx ends, and then returns nil. Whatever ends a stream, the state stays and
// the next one is opened after a pause.
func (c *Client) Run(ctx context.Context) error {
	for id := 1; ctx.Err() == nil; id++ {
		log := c.cfg.StreamLog(id)
		began := time.Now()
		end := c.stream(ctx, log)
		if ctx.Err() != nil {
			return nil
		}
		delay := c.backoff.next(end, time.Since(began))
		c.counts.ended(end.reason, delay)
		end.log(ctx, log, c.cfg.Address, delay)
		if end.tooLarge() {
			c.shrinkClaims(ctx, log)
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

// The control plane takes requests of 4 MiB unless it is configured otherwise, which includes what else is in them. Below
// minBudget it is not worth claiming anything.
const (
	claimBudget = 3 << 20
	minBudget   = 64 << 10
)

// shrinkClaims makes the next first request smaller, down to one that claims nothing.
func (c *Client) shrinkClaims(ctx context.Context, log *slog.Logger) {
	largest := 0
	for _, t := range c.types {
		largest = max(largest, t.retained.size())
	}
	c.budget = min(c.budget, largest) / 4
	if c.budget < minBudget {
		c.budget = 0
	}
	log.LogAttrs(ctx, slog.LevelWarn, "the control plane does not take a request of that size; claiming less and synchronizing the rest anew",
		slog.Int("bytes", c.budget))
}

// accepted notes the first accepted response of a type.
func (c *Client) accepted(t *resourceType) {
	if !t.awaited {
		return
	}
	t.awaited = false
	if c.awaited--; c.awaited == 0 {
		close(c.synced)
	}
}
