package xds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/anypb"

	"ztunnel/proxy/api/discoveryapi"
	"ztunnel/proxy/xds/xdstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The types of these tests: one with everything, one that can be on demand.
const (
	thingType  = "type.example/Thing"
	policyType = "type.example/Policy"
)

// table is a handler that keeps bodies by name. A body that begins with "bad" is rejected; one that begins with "broken" is
// rejected and kept nonetheless.
type table struct {
	mu      sync.Mutex
	content map[string]string
	batches int
}

func newTable() *table { return &table{content: make(map[string]string)} }

func (h *table) Handle(b *Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.batches++
	for r := range b.Resources() {
		switch body := string(r.Body); {
		case strings.HasPrefix(body, "bad"):
			r.Reject(errors.New(body))
		case strings.HasPrefix(body, "broken"):
			r.RejectApplied(errors.New(body))
			h.content[r.Name] = body
		default:
			h.content[r.Name] = body
		}
	}
	for name := range b.Removed() {
		delete(h.content, name)
	}
}

func (h *table) names() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(h.content)), " ")
}

func (h *table) has(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.content[name]
	return ok
}

// res is "NAME=BODY@VERSION", the version being optional, and aliases.
func res(text string, aliases ...string) *discoveryapi.Resource {
	name, rest, _ := strings.Cut(text, "=")
	body, version, _ := strings.Cut(rest, "@")
	return &discoveryapi.Resource{Name: name, Version: version, Aliases: aliases, Resource: &anypb.Any{Value: []byte(body)}}
}

var nonces int

func push(typeURL string, removed []string, resources ...*discoveryapi.Resource) *discoveryapi.DeltaDiscoveryResponse {
	nonces++
	return &discoveryapi.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: fmt.Sprint("nonce-", nonces), Resources: resources, RemovedResources: removed}
}

// lines is a log handler that keeps level and message, and the attribute error.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }
func (l *lines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *lines) WithGroup(string) slog.Handler            { return l }

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			line += " error=" + a.Value.String()
		}
		return true
	})
	l.text = append(l.text, line)
	return nil
}

// with returns the lines that contain a text.
func (l *lines) with(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for _, line := range l.text {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// world is a client and its scripted control plane, in a bubble.
type world struct {
	*testing.T
	client           *Client
	plane            *xdstest.Server
	channel          *xdstest.Channel
	things, policies *table
	log              *lines
}

// prepareClient, if set, is called with the client of the next bubble before it runs.
var prepareClient func(c *Client)

var testNode = &discoveryapi.Node{Id: "node"}

// inBubble runs a test with a client that runs until its end. Adjust may change the configuration.
func inBubble(t *testing.T, adjust func(*Config), test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, plane: xdstest.New(t), things: newTable(), policies: newTable(), log: &lines{}}
		w.channel = &xdstest.Channel{Server: w.plane}
		cfg := Config{
			Channel: w.channel, Address: "https://istiod:15012", Node: testNode, Log: slog.New(w.log),
			Types: []Type{{URL: thingType, Handler: w.things}, {URL: policyType, Handler: w.policies}},
		}
		if adjust != nil {
			adjust(&cfg)
		}
		w.client = New(cfg)
		if prepareClient != nil {
			prepareClient(w.client)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := w.client.Run(ctx); err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
		})
		t.Cleanup(func() {
			cancel()
			running.Wait()
		})
		test(w)
	})
}

// open accepts a stream and takes its first two requests.
func (w *world) open() (st *xdstest.Stream, things, policies *discoveryapi.DeltaDiscoveryRequest) {
	w.Helper()
	st = w.plane.Accept(w)
	return st, st.Recv(w), st.Recv(w)
}

// say sends a response and returns the answer to it.
func (w *world) say(st *xdstest.Stream, r *discoveryapi.DeltaDiscoveryResponse) *discoveryapi.DeltaDiscoveryRequest {
	w.Helper()
	st.Send(w, r)
	answer := st.Recv(w)
	if answer.GetResponseNonce() != r.GetNonce() || answer.GetTypeUrl() != r.GetTypeUrl() {
		w.Errorf("answer %v, want one to %s %s", answer, r.GetTypeUrl(), r.GetNonce())
	}
	return answer
}

// accepts sends a response and expects an ACK.
func (w *world) accepts(st *xdstest.Stream, r *discoveryapi.DeltaDiscoveryResponse) {
	w.Helper()
	if answer := w.say(st, r); answer.GetErrorDetail() != nil {
		w.Errorf("answer to %v = %v, want an ACK", r, answer)
	}
}

func (w *world) isSynced() bool {
	synctest.Wait()
	select {
	case <-w.client.Synced():
		return true
	default:
		return false
	}
}
