package inpod

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ztunnel/proxy/api/zdsapi"
)

const (
	// maxPods bounds the pods of a node, those to be kept included. Kubernetes means 110 of them; an agent that names
	// more than this is refused.
	maxPods = 10_000
	// startTimeout bounds the start of one pod, and retryRound that of all pending ones together: the agent waits five
	// seconds for an answer.
	startTimeout = 4 * time.Second
	retryRound   = 2 * time.Second
)

// netnsID tells whether two descriptors are of the same network namespace.
type netnsID struct{ dev, ino uint64 }

// running is a pod that is served.
type running struct {
	Running
	info  Info
	netns netnsID
}

// pending is a pod that could not be served yet.
type pending struct {
	info  Info
	netns *os.File
	since time.Time // of the first attempt
	tried time.Time // of the last one
}

// states is what is known of the pods. It is changed by one goroutine, that of Manager.Run; the lock is for those who look.
type states struct {
	pods    PodSet
	log     *slog.Logger
	metrics *counters

	mu      sync.Mutex
	running map[string]*running
	pending map[string]*pending

	snapshotDone bool                // on this connection
	named        map[string]struct{} // by the snapshot so far
	draining     sync.WaitGroup      // one for each proxy that ends
}

func newStates(pods PodSet, log *slog.Logger, metrics *counters) *states {
	return &states{
		pods: pods, log: log, metrics: metrics,
		running: map[string]*running{}, pending: map[string]*pending{}, named: map[string]struct{}{},
	}
}

// newSession forgets what an earlier connection has said. Pods that are served go on.
func (s *states) newSession() {
	s.snapshotDone = false
	clear(s.named)
	for _, uid := range s.pendingUIDs() {
		s.forget(uid)
	}
}

// ready reports whether everything that the agent has named on this connection is served.
func (s *states) ready() bool { return s.snapshotDone && !s.hasPending() }

func (s *states) hasPending() bool { return len(s.pending) > 0 }

// pendingUIDs lists the pending pods, that of the longest ago last attempt first.
func (s *states) pendingUIDs() []string {
	return slices.SortedFunc(maps.Keys(s.pending), func(a, b string) int {
		return cmp.Or(s.pending[a].tried.Compare(s.pending[b].tried), cmp.Compare(a, b))
	})
}

// obey does what a message asks for, and takes its namespace out of it if it keeps it. The error is a startError, a protocolError, or
// tells of a limit.
func (s *states) obey(ctx context.Context, m *message) error {
	switch p := m.Payload.(type) {
	case *zdsapi.WorkloadRequest_Add:
		return s.add(ctx, m)
	case *zdsapi.WorkloadRequest_Keep:
		return s.keep(p.Keep.GetUid())
	case *zdsapi.WorkloadRequest_Del:
		s.del(p.Del.GetUid())
		return nil
	}
	return s.snapshot()
}

func (s *states) add(ctx context.Context, m *message) error {
	uid, told := m.GetAdd().GetUid(), m.GetAdd().GetWorkloadInfo()
	s.log.Info("pod received, starting proxy", "uid", uid, "name", told.GetName(), "namespace", told.GetNamespace())
	if told == nil {
		return errNoInfo
	}
	if len(s.running)+len(s.pending) >= maxPods && s.running[uid] == nil && s.pending[uid] == nil {
		return &startError{errTooManyPod}
	}
	if !s.snapshotDone {
		s.named[uid] = struct{}{}
	}
	id, err := identify(m.netns)
	if err != nil {
		return &startError{err}
	}
	if s.log.Enabled(ctx, slog.LevelDebug) {
		s.log.Debug("the descriptor of a pod", "uid", uid, "namespace", networkNamespace(m.netns))
	}
	if r := s.running[uid]; r != nil {
		if r.netns == id {
			return nil // it is the same pod; what else is told of it does not change
		}
		s.stop(uid)
	}
	info := Info{Name: told.GetName(), Namespace: told.GetNamespace(), ServiceAccount: told.GetServiceAccount()}
	netns := m.netns
	m.netns = nil
	if err := s.start(ctx, uid, info, id, netns); err != nil {
		s.postpone(uid, info, netns)
		return &startError{err}
	}
	s.forget(uid)
	return nil
}

// start starts the proxy of a pod. If that fails, netns is the caller's.
func (s *states) start(ctx context.Context, uid string, info Info, id netnsID, netns *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	begin := time.Now()
	r, err := s.pods.Start(ctx, uid, info, netns)
	s.metrics.started(err, time.Since(begin))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[uid] = &running{r, info, id}
	return nil
}

// postpone makes a pod pending, in the place of one with the same uid.
func (s *states) postpone(uid string, info Info, netns *os.File) {
	now := time.Now()
	since := now
	if p := s.pending[uid]; p != nil {
		since = p.since
	}
	s.forget(uid)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[uid] = &pending{info, netns, since, now}
}

// forget drops a pending pod, if there is one.
func (s *states) forget(uid string) {
	p := s.pending[uid]
	if p == nil {
		return
	}
	s.mu.Lock()
	delete(s.pending, uid)
	s.mu.Unlock()
	_ = p.netns.Close()
}

func (s *states) keep(uid string) error {
	s.log.Info("pod keep received. will not delete it when snapshot is sent", "uid", uid)
	if s.snapshotDone {
		return errKeepLate
	}
	if len(s.named) >= maxPods {
		return &startError{errTooManyPod}
	}
	s.named[uid] = struct{}{}
	return nil
}

func (s *states) del(uid string) {
	s.log.Info("pod delete request, shutting down proxy", "uid", uid)
	s.forget(uid)
	if !s.snapshotDone {
		delete(s.named, uid) // the end of the snapshot stops it
		return
	}
	s.stop(uid)
}

// snapshot stops the pods that the snapshot has not named.
func (s *states) snapshot() error {
	s.log.Info("received snapshot sent")
	if s.snapshotDone {
		return errSecondSnapshot
	}
	for uid := range s.running {
		if _, ok := s.named[uid]; !ok {
			s.stop(uid)
		}
	}
	clear(s.named)
	s.snapshotDone = true
	return nil
}

// stop ends the proxy of a pod, if it has one, without grace. It does not wait for the end.
func (s *states) stop(uid string) {
	r := s.running[uid]
	if r == nil {
		return
	}
	s.mu.Lock()
	delete(s.running, uid)
	s.mu.Unlock()
	r.Drain(true)
	s.await(r, func() {})
}

// await counts the end of a proxy that is draining.
func (s *states) await(r *running, ended func()) {
	s.draining.Go(func() {
		<-r.Done()
		s.metrics.stopped.Add(1)
		ended()
	})
}

// retryPending tries to start the pending pods, as many as there is time for before the agent's next message should be read.
func (s *states) retryPending(ctx context.Context) {
	begin := time.Now()
	for _, uid := range s.pendingUIDs() {
		if time.Since(begin) > retryRound || ctx.Err() != nil {
			return
		}
		s.log.Info("retrying workload", "uid", uid)
		p := s.pending[uid]
		id, err := identify(p.netns)
		if err == nil {
			err = s.start(ctx, uid, p.info, id, p.netns)
		}
		s.mu.Lock()
		p.tried = time.Now()
		if err == nil {
			delete(s.pending, uid) // its namespace is the proxy's now
		}
		s.mu.Unlock()
		if err != nil {
			s.log.Info("the pod cannot be served yet: "+err.Error(), "uid", uid)
		}
	}
}

// drain ends all proxies, with grace unless ctx ends, and waits for them and for those that are ending already.
func (s *states) drain(ctx context.Context) {
	for _, uid := range s.pendingUIDs() {
		s.forget(uid)
	}
	open := maps.Clone(s.running)
	for uid, r := range open {
		r.Drain(ctx.Err() != nil)
		s.await(r, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.running, uid)
		})
	}
	cut := context.AfterFunc(ctx, func() {
		for _, r := range open {
			r.Drain(true)
		}
	})
	defer cut()
	s.draining.Wait()
}

// identify tells which namespace a descriptor is of.
func identify(netns *os.File) (netnsID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(netns.Fd()), &st); err != nil {
		return netnsID{}, fmt.Errorf("identify the network namespace: %w", err)
	}
	return netnsID{st.Dev, st.Ino}, nil
}

// nsGetType is NS_GET_NSTYPE of linux/nsfs.h.
const nsGetType = 0xb703

// networkNamespace tells whether a descriptor is of a network namespace as far as the kernel says. It is for the log only: old
// kernels do not say, and entering the namespace fails anyway.
func networkNamespace(f *os.File) bool {
	kind, err := unix.IoctlRetInt(int(f.Fd()), nsGetType)
	return err == nil && kind == unix.CLONE_NEWNET
}
