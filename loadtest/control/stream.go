package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"ztunnel/proxy/api/discoveryapi"
)

// maxNack bounds what is kept and logged of a client's complaint, bytes.
const maxNack = 1 << 10

// A stream is one client's. The lock of the plane protects it, but for what is
// said otherwise.
type stream struct {
	watches [kinds]*watch
	wake    chan struct{} // of one element; may be used without the lock
}

// changed notes a change that the client is to be told of.
func (s *stream) changed(k kind, name string, e *entry) {
	w := s.watches[k]
	switch {
	case w == nil || w.due: // what comes whole will hold the change
	case w.wants(name, e):
		w.dirty[name] = struct{}{}
		s.poke()
	default: // it came and went before it was told of
		delete(w.dirty, name)
	}
}

// poke makes the sender look what there is.
func (s *stream) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// behind reports whether the client has not been told, or has not answered, all.
func (s *stream) behind() bool {
	return slices.ContainsFunc(s.watches[:], func(w *watch) bool { return w == nil || w.unack || w.pending() })
}

// DeltaAggregatedResources serves one stream of a client. It is the method of
// the gRPC service.
func (p *Plane) DeltaAggregatedResources(g grpc.BidiStreamingServer[discoveryapi.DeltaDiscoveryRequest, discoveryapi.DeltaDiscoveryResponse]) error {
	who, err := p.authenticate(g.Context())
	if err != nil {
		p.refuse(err)
		return status.Error(codes.Unauthenticated, "authentication failure")
	}
	s := &stream{wake: make(chan struct{}, 1)}
	if err := p.open(s); err != nil {
		p.refuse(err)
		return err
	}
	defer p.close(s)

	ctx, cancel := context.WithCancel(g.Context())
	var sending sync.WaitGroup
	sending.Go(func() { p.send(ctx, s, g) })
	defer sending.Wait()
	defer cancel()
	log := p.log.With(slog.String("namespace", who.Namespace), slog.String("node", who.Node))
	log.Info("xDS stream opened")
	err = p.receive(s, who, g, log)
	log.Info("xDS stream ended", slog.Any("error", err))
	return err
}

func (p *Plane) refuse(why error) {
	p.log.Warn("xDS stream refused", slog.Any("error", why))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Refused++
}

func (p *Plane) open(s *stream) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.streams) >= maxStreams {
		return status.Errorf(codes.ResourceExhausted, "%d streams are open", maxStreams)
	}
	p.streams[s] = struct{}{}
	p.stats.Connects++
	return nil
}

func (p *Plane) close(s *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.streams, s)
}

// receive takes requests until the client or the connection ends.
func (p *Plane) receive(
	s *stream, who caller,
	g grpc.BidiStreamingServer[discoveryapi.DeltaDiscoveryRequest, discoveryapi.DeltaDiscoveryResponse], log *slog.Logger,
) error {
	node, known := "", false
	for {
		r, err := g.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive request: %w", err)
		}
		if !known {
			var problem string
			if node, problem = nodeName(who, r.GetNode()); problem != "" {
				p.refuse(errors.New(problem))
				return status.Error(codes.Unauthenticated, problem)
			}
			known = true
		}
		k := kind(slices.Index(typeURLs[:], r.GetTypeUrl()))
		if k < 0 {
			return status.Errorf(codes.InvalidArgument, "type %q is not served", r.GetTypeUrl())
		}
		if err := p.request(s, k, node, r); err != nil {
			return err
		}
		if complaint := r.GetErrorDetail(); complaint != nil {
			log.Warn("xDS response rejected", slog.String("type", r.GetTypeUrl()), slog.String("error", cut(complaint.GetMessage())))
		}
	}
}

// request takes one request of a client.
func (p *Plane) request(s *stream, k kind, node string, r *discoveryapi.DeltaDiscoveryRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Requests++
	w := s.watches[k]
	if w == nil {
		w = newWatch(k, node, r)
		s.watches[k] = w
	} else {
		w.subscribe(r)
		p.answered(w, r)
	}
	if w.size() > maxNames {
		return status.Errorf(codes.ResourceExhausted, "more than %d names", maxNames)
	}
	if w.pending() {
		s.poke()
	}
	return nil
}

// answered counts an ACK or NACK, if the request is one. The caller holds the
// lock.
func (p *Plane) answered(w *watch, r *discoveryapi.DeltaDiscoveryRequest) {
	switch {
	case r.GetErrorDetail() != nil:
		p.stats.Nacks++
		p.stats.LastNack = cut(r.GetErrorDetail().GetMessage())
	case r.GetResponseNonce() != "":
		p.stats.Acks++
	default:
		return
	}
	if r.GetResponseNonce() == w.nonce {
		w.unack = false
	}
}

// send sends responses until the stream ends, which it learns by ctx or by a
// failure; the receiver learns of that too.
func (p *Plane) send(
	ctx context.Context, s *stream,
	g grpc.BidiStreamingServer[discoveryapi.DeltaDiscoveryRequest, discoveryapi.DeltaDiscoveryResponse],
) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		// Addresses before policies, whatever came first.
		for k := range kinds {
			r := p.response(s, k)
			if r == nil {
				continue
			}
			if err := g.Send(r); err != nil {
				p.log.Debug("send xDS response", slog.Any("error", err))
				return
			}
		}
	}
}

// response returns what a stream is to be told of one kind; nil: nothing.
func (p *Plane) response(s *stream, k kind) *discoveryapi.DeltaDiscoveryResponse {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := s.watches[k]
	if w == nil || !w.pending() {
		return nil
	}
	found, removed := w.collect(&p.store)
	p.pushes++
	p.stats.Responses++
	version := fmt.Sprintf("%s/%d", time.Now().UTC().Format(time.RFC3339), p.pushes)
	w.nonce, w.unack = version+rand.Text(), true
	r := &discoveryapi.DeltaDiscoveryResponse{
		SystemVersionInfo: version,
		TypeUrl:           typeURLs[k],
		Nonce:             w.nonce,
		RemovedResources:  removed,
		Resources:         make([]*discoveryapi.Resource, 0, len(found)),
	}
	for _, e := range found {
		resource := &discoveryapi.Resource{
			Name:     e.name,
			Resource: &anypb.Any{TypeUrl: typeURLs[k], Value: e.body},
		}
		if k == addresses {
			resource.Version = e.version
		}
		if !w.all {
			resource.Aliases = e.aliases
		}
		r.Resources = append(r.Resources, resource)
	}
	return r
}

func cut(text string) string { return text[:min(len(text), maxNack)] }
