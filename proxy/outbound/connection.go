package outbound

import (
	"context"
	"net"
	"net/netip"
	"time"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/live"
	"ztunnel/proxy/relay"
	"ztunnel/proxy/route"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// outgoing is one connection that has a route.
type outgoing struct {
	*Server
	app         *net.TCPConn // the application's end
	src, target netip.AddrPort
	source      *workload.Workload
	route       route.Decision
	start       time.Time
	trace       hbone.Traceparent
	record      *connection.Record // nil at first with double HBONE
	cancel      context.CancelCauseFunc
	watch       clientWatch
}

// tunnelled is what is left of a connection once it has its stream. Most
// connections are idle most of the time, so it holds nothing else.
type tunnelled struct {
	live.Conn
	src, target, dial netip.AddrPort
	protocol          live.Protocol
	app               *net.TCPConn
	record            *connection.Record
	relaying          hbone.Relaying
}

// Facts are for the config dump.
func (t *tunnelled) Facts() live.Facts {
	return live.Facts{Src: t.src, Original: t.target, Actual: t.dial, Protocol: t.protocol}
}

// Recheck returns nil: policies rule where connections arrive.
func (t *tunnelled) Recheck() error { return nil }

// run relays to the end of the connection and records how it ended. It reports
// whether it is to be called again, see [hbone.Relaying.Run].
func (t *tunnelled) run() (again bool) {
	err := errPanicked
	defer func() {
		if again {
			return
		}
		t.app.Close()
		t.record.Close(err)
		t.Remove()
	}()
	again, err = t.relaying.Run()
	err = relayed(err)
	return again
}

// serve carries the connection to its end and records how it ended. What it
// returns, if anything, is the rest of that, for which nothing of the set-up needs
// to be held. It is to be run, and run again on another goroutine if it says so.
func (c *outgoing) serve(ctx context.Context) (rest func() (again bool)) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := &tunnelled{app: c.app, src: c.src, target: c.target, dial: c.route.Dial, protocol: c.protocol()}
	t.OnEnd(cancel)
	c.Live.Add(&t.Conn, t)
	if c.route.Kind != route.DoubleHBONE { // else the far end tells who it is first
		c.record = c.Recorder.Open(c.details())
	}
	c.cancel = cancel
	err := errPanicked
	defer func() {
		if rest == nil {
			c.end(err)
			t.Remove()
		}
	}()
	if c.route.Kind != route.HBONE {
		err = c.carry(ctx)
		return nil
	}
	stream, err := c.overHBONE(ctx)
	if err != nil {
		return nil
	}
	t.record = c.record
	t.relaying = stream.Join(c.app, &c.record.Received, &c.record.Sent, hbone.Downstream)
	t.OnEnd(stream.Cancel) // which ctx does no more
	return t.run
}

// end closes the application's end and records the result.
func (c *outgoing) end(err error) {
	c.app.Close()
	if c.record == nil {
		c.record = c.Recorder.Open(c.details())
	}
	c.record.Close(err)
}

// carry dials and relays by the kind of the route. Until there is somebody to
// relay to, it watches for an application that gives up.
func (c *outgoing) carry(ctx context.Context) error {
	c.watch.start(c)
	defer c.watch.stop()
	switch c.route.Kind {
	case route.DoubleHBONE:
		return c.overDoubleHBONE(ctx)
	default:
		return c.overTCP(ctx)
	}
}

// overTCP dials the destination itself. No byte is read from the application
// before that has succeeded, so that it learns of a failure by a reset.
func (c *outgoing) overTCP(ctx context.Context) error {
	upstream, err := c.Sockets.Dial(ctx, netip.Addr{}, c.route.Dial)
	if err != nil {
		return cause(ctx, &relay.IOError{Err: err})
	}
	defer upstream.Close()
	c.watch.stop()
	c.record.Mark(connection.StageTCP)
	return relayed(relay.Copy(ctx, c.app, upstream, relay.Counters{Received: &c.record.Received, Sent: &c.record.Sent}))
}

// overHBONE opens a stream in a tunnel to the next hop.
func (c *outgoing) overHBONE(ctx context.Context) (*hbone.Stream, error) {
	c.watch.start(c)
	defer c.watch.stop()
	stream, err := c.Pool.Open(ctx, c.key(), c.request(false))
	if err != nil {
		return nil, cause(ctx, tunnelFailure(err))
	}
	c.record.Mark(connection.StageConnect)
	return stream, nil
}

// overDoubleHBONE opens a tunnel of its own through a stream to the gateway of
// another network, and a stream in that.
func (c *outgoing) overDoubleHBONE(ctx context.Context) error {
	outer, err := c.Pool.Open(ctx, c.key(), c.request(false))
	if err != nil {
		return cause(ctx, tunnelFailure(err))
	}
	tunnel, err := c.Inner.DialInner(ctx, outer, c.source.Identity(), c.route.InnerExpected)
	if err != nil {
		return cause(ctx, tunnelFailure(err))
	}
	defer func() {
		tunnel.Abort(nil)
		<-tunnel.Done()
	}()
	inner, err := tunnel.Open(ctx, c.request(true))
	if err != nil {
		return cause(ctx, tunnelFailure(err))
	}
	c.watch.stop()
	c.record = c.Recorder.Open(c.farDetails(tunnel, inner))
	c.record.Mark(connection.StageConnect)
	return relayed(inner.Relay(ctx, c.app, &c.record.Received, &c.record.Sent, hbone.Downstream))
}

// key tells which tunnels may carry the connection.
func (c *outgoing) key() hbone.Key {
	return hbone.Key{
		Identity: c.source.Identity(),
		Expected: c.route.ExpectedKey(),
		Addr:     c.route.Dial,
		Client:   c.src.Addr(),
	}
}
