package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ztunnel/proxy/live"
	"ztunnel/proxy/workload"
)

// burst is the least time between two looks at the pods after changes of the store. There may be thousands in a second.
const burst = 10 * time.Millisecond

// watcher asks open connections again whenever the policies, or what is known of their pod's workload, change. It is one for all
// pods of a node, with one goroutine that runs while there is a pod to watch.
type watcher struct {
	mu   sync.Mutex
	pods map[*watched]struct{}
	stop context.CancelFunc // of the goroutine
	done chan struct{}      // closed when it has ended
}

// watched is the connections of one pod.
type watched struct {
	info  workload.Info
	live  *live.Set
	log   *slog.Logger
	known *workload.Workload // when the connections were asked last
}

// watch begins to watch the connections of a pod, before the first of them is taken. It returns the end of that.
func (n *Node) watch(info workload.Info, set *live.Set, log *slog.Logger) (unwatch func()) {
	pod := &watched{info: info, live: set, log: log, known: n.Store.Local(info)}
	w := &n.watcher
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pods == nil {
		w.pods = map[*watched]struct{}{}
	}
	w.pods[pod] = struct{}{}
	if len(w.pods) == 1 {
		ctx, stop := context.WithCancel(context.Background())
		done, before := make(chan struct{}), w.done
		w.stop, w.done = stop, done
		go func() { // the last unwatch waits for it
			defer close(done)
			if before != nil {
				<-before // it may be looking at the pods still
			}
			n.watchAll(ctx)
		}()
	}
	return func() { w.remove(pod) }
}

// remove ends watching a pod, and with the last one the goroutine.
func (w *watcher) remove(pod *watched) {
	w.mu.Lock()
	delete(w.pods, pod)
	stop, done := w.stop, w.done
	last := len(w.pods) == 0
	w.mu.Unlock()
	if last {
		stop()
		<-done
	}
}

// all is the pods that are watched now.
func (w *watcher) all() []*watched {
	w.mu.Lock()
	defer w.mu.Unlock()
	pods := make([]*watched, 0, len(w.pods))
	for pod := range w.pods {
		pods = append(pods, pod)
	}
	return pods
}

// watchAll watches until ctx ends.
func (n *Node) watchAll(ctx context.Context) {
	everybody := true
	gather := time.NewTimer(0)
	defer gather.Stop()
	for {
		looked := time.Now()
		policies, store := n.Policies.Changed(), n.Store.LocalChanged()
		for _, pod := range n.watcher.all() {
			n.look(pod, everybody)
		}
		everybody = false
		select {
		case <-ctx.Done():
			return
		case <-policies:
			everybody = true
			continue
		case <-store:
		}
		wait := burst - time.Since(looked)
		if wait <= 0 {
			continue
		}
		gather.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-policies:
			everybody = true
		case <-gather.C:
		}
	}
}

// look asks the connections of a pod, if its workload is another one now or everybody is to be asked. A pod without connections
// is skipped: the first one that comes is judged by what is known then.
func (n *Node) look(pod *watched, everybody bool) {
	if pod.live.Len() == 0 {
		return
	}
	now := n.Store.Local(pod.info)
	if now == pod.known && !everybody {
		return
	}
	pod.known = now
	for _, ended := range pod.live.Recheck() {
		c := ended.Facts()
		who := "None"
		if !c.Identity.IsZero() {
			who = c.Identity.String()
		}
		pod.log.Info(fmt.Sprintf("connection %s(%s)->%s (%s) closed because it's no longer allowed after a policy update",
			c.Src, who, c.Actual, c.Workload))
	}
}
