package inpod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// PodSet starts the proxies of pods.
type PodSet interface {
	// Start begins to proxy a pod. It does local work only, such as opening sockets, because the agent waits: when it
	// returns, clients of the pod are taken. Without an error it owns netns from then on; with one, netns stays the
	// caller's and nothing is left open. ctx bounds the work, not the life of the proxy. There is one call at a time.
	Start(ctx context.Context, uid string, info Info, netns *os.File) (Running, error)
}

// Running is the proxy of one pod.
type Running interface {
	// Drain begins to end the proxy and does not wait. Not immediate, open connections may finish until the deadline of
	// drains. It may be called again, also to cut short a drain that has begun otherwise.
	Drain(immediate bool)
	// Done is closed when nothing of the proxy is left.
	Done() <-chan struct{}
	// Connections are the open connections in the form of the config dump, nil if the pod has none of its own. It may
	// be called at any time.
	Connections() any
}

// Info is what the agent tells of a pod. Its JSON is that of the config dump.
type Info struct {
	Name           string `json:"name"`
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

// Config is what a Manager is made of. All fields are needed unless they say otherwise.
type Config struct {
	// Path is the agent's socket.
	Path string
	// Pods starts the proxies.
	Pods PodSet
	// Ready is told when all pods that the agent knows are served, and when that can no longer be said: without an
	// agent, for instance. It is called by Run only, at changes only, beginning with false. Nil: nobody is told.
	Ready func(ready bool)
	// Log has the scope inpod::workloadmanager. Nil drops everything.
	Log *slog.Logger
}

// Manager serves the pods that the agent names. Use New.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	dial    func(ctx context.Context) (packetConn, error)
	states  *states
	metrics counters

	ready    bool
	announce backoff // after sessions that could not begin
	useless  backoff // after sessions in which no message was answered
}

// New returns a manager that does nothing until Run.
func New(cfg Config) *Manager {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Ready == nil {
		cfg.Ready = func(bool) {}
	}
	m := &Manager{cfg: cfg, log: cfg.Log, announce: backoff{first: announceFirst}, useless: backoff{first: announceAgain}}
	m.dial = m.dialAgent
	m.states = newStates(cfg.Pods, cfg.Log, &m.metrics)
	return m
}

// Run talks to the agent until drain is closed or ctx ends, and returns when all pods have ended. After drain, which may
// be nil, their connections may finish until the deadline of drains; when ctx ends they are cut. The error says that the agent
// does not keep to the protocol: the two do not fit together, and the process should end. It may be called once.
func (m *Manager) Run(ctx context.Context, drain <-chan struct{}) error {
	m.cfg.Ready(false)
	session, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-drain:
			m.log.Info("drain requested")
			stop()
		case <-session.Done():
		}
	})
	watching.Go(func() { makeRoom(m.log) })
	err := m.sessions(session)
	stop()
	watching.Wait()
	m.setReady(false)
	m.states.drain(ctx)
	return err
}

// sessions has one session after the other until ctx ends. The error is final.
func (m *Manager) sessions(ctx context.Context) error {
	for {
		conn, err := m.connect(ctx)
		if err != nil {
			return nil // asked to end
		}
		m.log.Info("handling new stream")
		s := &session{Manager: m, conn: conn}
		m.metrics.connected.Store(true)
		err = s.run(ctx)
		m.metrics.connected.Store(false)
		_ = conn.Close()
		m.setReady(false)
		if ctx.Err() != nil {
			return nil
		}
		if mismatch, ok := errors.AsType[*protocolError](err); ok {
			m.log.Error("protocol mismatch error while processing stream, shutting down")
			return fmt.Errorf("the node agent broke the protocol: %w", mismatch)
		}
		if !m.ended(ctx, s, err) {
			return nil
		}
	}
}

// ended logs why a session ended, and waits where the next one would end the same way. It returns false if ctx ended
// meanwhile.
func (m *Manager) ended(ctx context.Context, s *session, err error) bool {
	if err == nil {
		m.log.Info("process stream ended with eof")
	}
	if announce, ok := errors.AsType[*announceError](err); ok {
		wait := m.announce.next(time.Now())
		m.log.Error(fmt.Sprintf("node agent announcement failed (%v), retrying in %v", announce, wait))
		return pause(ctx, wait)
	}
	if err != nil {
		m.log.Warn("process stream ended: " + err.Error())
	}
	if s.handled > 0 { // an agent that talks: come back at once
		m.useless = backoff{first: announceAgain}
		return true
	}
	return pause(ctx, m.useless.next(time.Now()))
}

// setReady tells of a change.
func (m *Manager) setReady(ready bool) {
	if ready {
		m.announce = backoff{first: announceAgain} // the agent works
	}
	if ready != m.ready {
		m.ready = ready
		m.cfg.Ready(ready)
	}
}

// connect connects to the agent, trying until ctx ends.
func (m *Manager) connect(ctx context.Context) (packetConn, error) {
	for wait := connectFirst; ; wait = min(2*wait, retryMax) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		conn, err := m.dial(ctx)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() == nil {
			m.log.Warn(fmt.Sprintf("failed to connect to the Istio CNI node agent over %q, is the node agent healthy? details: %v. retrying in %v",
				m.cfg.Path, err, wait))
		}
		if !pause(ctx, wait) {
			return nil, ctx.Err()
		}
	}
}

func (m *Manager) dialAgent(ctx context.Context) (packetConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unixpacket", m.cfg.Path)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}
