package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"

	"ztunnel/proxy/socket"
	"ztunnel/proxy/socks"
	"ztunnel/telemetry/connection"
)

// newSOCKS returns what serves the SOCKS clients of the pod. Their connections go on as outbound ones, in the same tunnels.
func (p *Pod) newSOCKS(c *PodConfig) *socks.Server {
	return socks.New(socks.Config{
		Resolve: c.Resolve, Proxy: p.outbound.Proxy, Refused: p.refusedSOCKS, ErrorText: socket.ErrorText,
		Timeout: p.node.Config.InboundHandshakeTimeout, Log: c.Log("proxy::socks5"),
	})
}

// serveSOCKS takes connections from ln until it is closed, and returns when all of them have ended. Cancelling ctx ends them
// at once.
func (p *Pod) serveSOCKS(ctx context.Context, ln *net.TCPListener) error {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	return socket.Accept(ctx, ln, p.socks.Log, func(conn *net.TCPConn) {
		handlers.Go(func() { p.handleSOCKS(ctx, conn, p.socks.Log) })
	})
}

// handleSOCKS serves one accepted connection to its end.
func (p *Pod) handleSOCKS(ctx context.Context, conn *net.TCPConn, log *slog.Logger) {
	p.node.Recorder.SocketOpened(connection.Source)
	defer p.node.Recorder.SocketClosed(connection.Source)
	defer conn.Close()
	defer func() {
		if reason := recover(); reason != nil {
			p.node.panics.Add(1)
			log.Error("panic while serving a connection", "panic", fmt.Sprint(reason), "stack", string(debug.Stack()))
		}
	}()
	if err := p.sockets.Accepted(conn, false); err != nil { // without keepalive, as in the reference
		log.Debug("preparing a connection failed", "error", err)
		return
	}
	client := socket.Peer(conn)
	if !client.IsValid() { // reset already
		log.Debug("the client was gone before its connection was served")
		return
	}
	p.socks.Serve(ctx, conn, client)
}

// refusedSOCKS logs and counts a client that is refused before it has a route.
func (p *Pod) refusedSOCKS(client netip.AddrPort, err error) {
	r := connection.Rejection{Reporter: connection.Source, Reason: connection.ReasonBadRequest, Src: client, Err: err}
	var reasoned interface{ RejectReason() string }
	if errors.As(err, &reasoned) {
		r.Reason = connection.Reason(reasoned.RejectReason())
	}
	p.node.Recorder.Reject(&r)
}
