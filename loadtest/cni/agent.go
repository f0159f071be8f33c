package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPods bounds the pods of the node, and maxConnections its ztunnels: one,
	// and some more while it is replaced.
	maxPods        = 4096
	maxConnections = 16
)

// timing is how long things take; tests have less time.
type timing struct {
	accept time.Duration // between two connections
	answer time.Duration // for each request, each answer and the hello
	// After idle without traffic a connection is probed: a ztunnel says nothing
	// unasked, so that reading must end by probe.
	idle, probe time.Duration
}

// istioTiming is that of Istio's agent.
var istioTiming = timing{
	accept: 200 * time.Millisecond,
	answer: 5 * time.Second,
	idle:   5 * time.Second,
	probe:  10 * time.Millisecond,
}

// ErrNoProxy says that no ztunnel was told of a pod, because none is connected
// or its connection ended. The pod is known and will be told of to the next one.
var ErrNoProxy = errors.New("no ztunnel is connected")

// RefusedError says that a ztunnel answered with an error. The connection stays.
type RefusedError struct {
	Reason string // the ztunnel's words
}

// Error returns "refused by ztunnel: " and the reason.
func (e *RefusedError) Error() string { return "refused by ztunnel: " + e.Reason }

// Config is what an [Agent] needs to know.
type Config struct {
	// Log is told of connections and refusals; nil: nobody.
	Log *slog.Logger
}

// Pod is a pod of the node.
type Pod struct {
	UID            string // of Kubernetes: the key of the conversation
	Name           string
	Namespace      string
	ServiceAccount string
	// NetNS is its network namespace. The agent makes a copy of the descriptor:
	// the caller may close its own.
	NetNS *os.File
}

// An Agent is the node agent of one node. Its methods may be called
// concurrently.
type Agent struct {
	log   *slog.Logger
	times timing

	mu    sync.Mutex // over all below
	order []string   // uids, oldest first
	pods  map[string]Pod
	conns []*conn // oldest first
	stats Stats
}

// Stats is what an [Agent] has counted since it was made, and what it has now.
type Stats struct {
	Pods        int // known
	Connections int // open now, hello received
	Synced      int // of them, those that have been told of all pods

	Connects uint64 // connections that said hello
	Rejected uint64 // connections closed at once: too many, or no hello
	Broken   uint64 // connections closed because of what the ztunnel did
	Adds     uint64 // that were answered with success
	Dels     uint64 // that were answered with success
	Refused  uint64 // requests that were answered with an error
}

// New makes an agent that knows no pods. It starts nothing.
func New(cfg Config) *Agent {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Agent{log: log, times: istioTiming, pods: map[string]Pod{}}
}

// Listen listens at a path as the node agent does, for [Agent.Serve]. A socket
// that an agent left there, which nobody listens at any more, is removed.
func Listen(path string) (*net.UnixListener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove old socket of the node agent: %w", err)
		}
	}
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen as node agent: %w", err)
	}
	return ln, nil
}

// Serve talks to the ztunnels that connect to ln, until ctx ends; then it closes
// ln and all connections, and returns nil once everything it started has ended.
// It may be called again with another listener: the agent still knows its pods.
func (a *Agent) Serve(ctx context.Context, ln *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	var talking sync.WaitGroup
	defer talking.Wait()
	defer cancel()
	closeListener := func() { _ = ln.Close() } // best effort
	stop := context.AfterFunc(ctx, closeListener)
	defer stop()
	defer closeListener()

	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
		socket, err := ln.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				socket.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept ztunnel: %w", err)
		}
		next.Reset(a.times.accept)
		talking.Go(func() { a.talk(ctx, socket) })
	}
}

// Close forgets all pods and closes their namespaces. Call it when nothing else
// of the agent runs any more.
func (a *Agent) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var faults []error
	for _, pod := range a.pods {
		faults = append(faults, pod.NetNS.Close())
	}
	clear(a.pods)
	a.order = nil
	return errors.Join(faults...)
}

// Add makes a pod known, or replaces that of its UID, and tells the ztunnel that
// connected last. The error is [ErrNoProxy], a [*RefusedError] or another; after
// the first two the pod is known all the same, and calling Add again is the way
// to retry. It waits for a connection's snapshot, and for what was asked before.
func (a *Agent) Add(ctx context.Context, pod Pod) error {
	if pod.UID == "" || pod.NetNS == nil {
		return fmt.Errorf("add pod %s/%s: no uid or no network namespace", pod.Namespace, pod.Name)
	}
	newest, err := a.remember(pod)
	if err != nil {
		return fmt.Errorf("add pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if newest == nil {
		return fmt.Errorf("add pod %s/%s: %w", pod.Namespace, pod.Name, ErrNoProxy)
	}
	if err := newest.ask(ctx, request{add: pod.UID}); err != nil {
		return fmt.Errorf("add pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// remember puts a pod into the cache and returns the newest connection, if any.
func (a *Agent) remember(pod Pod) (*conn, error) {
	netns, err := duplicate(pod.NetNS)
	if err != nil {
		return nil, err
	}
	pod.NetNS = netns
	a.mu.Lock()
	defer a.mu.Unlock()
	if old, ok := a.pods[pod.UID]; ok {
		old.NetNS.Close()
	} else if len(a.pods) >= maxPods {
		netns.Close()
		return nil, fmt.Errorf("%d pods are known already", maxPods)
	} else {
		a.order = append(a.order, pod.UID)
	}
	a.pods[pod.UID] = pod
	if len(a.conns) == 0 {
		return nil, nil
	}
	return a.conns[len(a.conns)-1], nil
}

// Remove forgets a pod and tells all ztunnels. A pod that is not known is told
// of too: a ztunnel may know it. The error joins those of all that refused or
// failed to answer; connections that end count as told.
func (a *Agent) Remove(ctx context.Context, uid string) error {
	a.mu.Lock()
	if pod, ok := a.pods[uid]; ok {
		pod.NetNS.Close()
		delete(a.pods, uid)
		a.order = slices.DeleteFunc(a.order, func(other string) bool { return other == uid })
	}
	conns := slices.Clone(a.conns)
	a.mu.Unlock()

	faults := make([]error, len(conns))
	var asking sync.WaitGroup
	for i, c := range conns {
		asking.Go(func() {
			if err := c.ask(ctx, request{del: uid}); !errors.Is(err, ErrNoProxy) {
				faults[i] = err
			}
		})
	}
	asking.Wait()
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("remove pod %s: %w", uid, err)
	}
	return nil
}

// Stats returns the counters as they are now.
func (a *Agent) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.stats
	s.Pods, s.Connections = len(a.pods), len(a.conns)
	for _, c := range a.conns {
		if c.synced {
			s.Synced++
		}
	}
	return s
}

// lookup returns a pod with a descriptor of its own, which the caller closes.
func (a *Agent) lookup(uid string) (Pod, bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	pod, ok := a.pods[uid]
	if !ok {
		return Pod{}, false, nil
	}
	netns, err := duplicate(pod.NetNS)
	pod.NetNS = netns
	return pod, true, err
}

// duplicate returns another descriptor of the same open file.
func duplicate(file *os.File) (*os.File, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("copy descriptor of network namespace: %w", err)
	}
	var fd int
	var dupErr error
	err = raw.Control(func(from uintptr) { fd, dupErr = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(err, dupErr); err != nil {
		return nil, fmt.Errorf("copy descriptor of network namespace: %w", err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}
