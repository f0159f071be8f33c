package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"ztunnel/proxy/api/discoveryapi"
)

// MaxResponse bounds a response, in bytes.
const MaxResponse = 200 << 20

// stream is one stream: run reads responses, applies and answers them. A busy control plane sends a thousand in a second, so
// that no other goroutine is woken for an answer. When the control plane does not take answers, sending waits, and no
// response is read.
type stream struct {
	c       *Client
	log     *slog.Logger
	sending sync.Mutex // over what sends, and so over the order of requests
	grpc    grpc.ClientStream
	kick    <-chan struct{} // of the on-demand type; nil if there is none
	fail    context.CancelCauseFunc
}

// stream opens a stream and serves it to its end.
func (c *Client) stream(ctx context.Context, log *slog.Logger) ending {
	conn, err := c.cfg.Channel.Dial()
	if err != nil {
		return localFailure(fmt.Errorf("dial %s: %w", c.cfg.Address, err))
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	with, err := c.cfg.Channel.Context(ctx)
	if err != nil {
		return localFailure(err)
	}
	g, err := conn.NewStream(with, &discoveryapi.AggregatedDiscoveryService_ServiceDesc.Streams[0],
		discoveryapi.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName,
		grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(MaxResponse))
	if err != nil {
		return classify(err, false)
	}
	s := &stream{c: c, log: log, grpc: g, fail: cancel}
	if err := s.introduce(ctx); err != nil {
		return localFailure(err)
	}
	var asking sync.WaitGroup
	if s.kick != nil {
		asking.Go(func() { s.ask(ctx) })
	}
	defer asking.Wait()
	defer cancel(nil) // before waiting
	return s.run(ctx)
}

// introduce sends the first request of each type. An error is one of this side; when the stream has ended, reading tells
// why.
func (s *stream) introduce(ctx context.Context) error {
	for _, t := range s.c.types {
		request, rest := s.c.first(t)
		s.log.LogAttrs(ctx, slog.LevelDebug, "sending initial request",
			slog.Int("resources", len(request.GetInitialResourceVersions())), slog.String("type_url", t.URL))
		if err := s.send(request); err != nil {
			return err
		}
		for names := range slices.Chunk(rest, subscribeChunk) {
			if err := s.send(&discoveryapi.DeltaDiscoveryRequest{TypeUrl: t.URL, ResourceNamesSubscribe: names}); err != nil {
				return err
			}
		}
		if t.demands != nil {
			s.kick = t.demands.kick
		}
	}
	return nil
}

// subscribeChunk is how many names go into one subscription: few enough for a request that the control plane takes.
const subscribeChunk = 1000

// first makes the first request of a type on a stream. On demand, what does not fit into it is subscribed to by the names
// that are returned; otherwise the first response tells.
func (c *Client) first(t *resourceType) (*discoveryapi.DeltaDiscoveryRequest, []string) {
	request := &discoveryapi.DeltaDiscoveryRequest{Node: c.cfg.Node, TypeUrl: t.URL}
	request.InitialResourceVersions, t.unclaimed = t.retained.claims(c.budget)
	if t.demands == nil {
		return request, nil
	}
	// To subscribe to everything and to cancel that in one request is to subscribe to nothing; an empty request would
	// subscribe to everything.
	request.ResourceNamesSubscribe = []string{"*"}
	request.ResourceNamesUnsubscribe = []string{"*"}
	for _, key := range t.demands.begin() {
		if _, ok := request.InitialResourceVersions[key]; !ok && c.budget > 0 {
			if request.InitialResourceVersions == nil {
				request.InitialResourceVersions = make(map[string]string)
			}
			request.InitialResourceVersions[key] = ""
		}
	}
	var rest []string
	for name := range t.unclaimed {
		rest = append(rest, name)
	}
	t.unclaimed = nil
	return request, rest
}

// send sends one request. The end of the stream is no error here: reading tells why it ended.
func (s *stream) send(r *discoveryapi.DeltaDiscoveryRequest) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	if err := s.grpc.SendMsg(r); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("send request for %s: %w", r.GetTypeUrl(), err)
	}
	return nil
}

// ask sends subscriptions to what is waited for until ctx ends.
func (s *stream) ask(ctx context.Context) {
	for {
		select {
		case <-s.kick:
		case <-ctx.Done():
			return
		}
		r := s.subscription()
		if r == nil {
			continue
		}
		s.log.LogAttrs(ctx, slog.LevelDebug, "sending request", slog.String("type_url", r.GetTypeUrl()))
		if err := s.send(r); err != nil {
			s.fail(err)
			return
		}
	}
}

// subscription asks for the keys that are waited for, or is nil.
func (s *stream) subscription() *discoveryapi.DeltaDiscoveryRequest {
	for _, t := range s.c.types {
		if t.demands == nil {
			continue
		}
		if keys := t.demands.unsent(); len(keys) > 0 {
			return &discoveryapi.DeltaDiscoveryRequest{TypeUrl: t.URL, ResourceNamesSubscribe: keys}
		}
	}
	return nil
}

// run reads and applies responses until the stream ends.
func (s *stream) run(ctx context.Context) ending {
	established := false
	if header, err := s.grpc.Header(); err == nil && header != nil {
		established = true
		s.log.LogAttrs(ctx, slog.LevelInfo, "Stream established")
		s.c.counts.connect(true)
		defer s.c.counts.connect(false)
	}
	for {
		var r response
		if err := s.grpc.RecvMsg(&r); err != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
				return localFailure(cause)
			}
			if errors.Is(err, io.EOF) {
				return ending{reason: reasonComplete}
			}
			return classify(err, established)
		}
		if err := s.apply(ctx, &r); err != nil {
			return localFailure(err)
		}
	}
}

// apply hands a response to the handler of its type and answers it.
func (s *stream) apply(ctx context.Context, r *response) error {
	if err := r.scan(); err != nil {
		r.free()
		return fmt.Errorf("decode response: %w", err)
	}
	s.log.LogAttrs(ctx, slog.LevelDebug, "received response", slog.String("type_url", r.typeURL),
		slog.Int("size", r.resources), slog.Int("removes", len(r.removed)))
	answer := &discoveryapi.DeltaDiscoveryRequest{TypeUrl: r.typeURL, ResponseNonce: r.nonce}
	t := s.c.byURL[r.typeURL]
	if t == nil {
		s.c.counts.unheard()
		s.log.LogAttrs(ctx, slog.LevelError, "unknown type", slog.String("type_url", clip(r.typeURL)))
		r.free()
	} else if text := s.c.apply(t, r); text != "" {
		answer.ErrorDetail = &discoveryapi.Status{Code: int32(codes.InvalidArgument), Message: text}
	}
	if d := answer.GetErrorDetail(); d != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "sending response", slog.String("type_url", r.typeURL),
			slog.String("nonce", r.nonce), slog.String("type", "Nack"), slog.String("error", d.GetMessage()))
	} else {
		s.log.LogAttrs(ctx, slog.LevelDebug, "sending response", slog.String("type_url", r.typeURL),
			slog.String("nonce", r.nonce), slog.String("type", "Ack"))
	}
	return s.send(answer)
}

// apply puts a response into force. It returns why it is rejected, or "".
func (c *Client) apply(t *resourceType, r *response) string {
	start := time.Now()
	b := t.batch(r)
	t.Handler.Handle(b)
	b.settle()
	if t.demands != nil {
		t.demands.answer(b.answered)
		t.demands.gone(r.removed)
	}
	c.counts.applied(t, b, time.Since(start))
	if b.rejected.count > 0 {
		return b.rejected.String()
	}
	c.accepted(t)
	return ""
}
