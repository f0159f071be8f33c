// Package worker keeps goroutines whose stacks have grown, so that the next task
// need not grow a stack again. Setting a connection up calls deep, and so does
// encrypting; growing stacks for that was a twentieth of what a short connection
// costs. A task that comes to wait for long holds a large stack meanwhile, and
// should go on elsewhere when memory is wanted back, see [hbone.Relaying.Run].
//
// Packages inbound, outbound and hbone start connections with it, and dns queries
// that have to wait.
package worker

import "sync"

// maxIdle is how many goroutines are kept for the next task.
const maxIdle = 64

// Pool runs tasks. The zero value is ready. It may be used concurrently.
type Pool struct {
	mu      sync.Mutex
	idle    []chan func() // the one used last is used next
	closed  bool
	working sync.WaitGroup
}

// Go runs task on a goroutine that has run one before, or on a new one. It does
// not wait. Who needs to know when the task has ended must say so in it.
func (p *Pool) Go(task func()) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		next := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		next <- task
		return
	}
	p.mu.Unlock()
	p.working.Go(func() { p.work(task) })
}

// work runs tasks until there is no place among the idle.
func (p *Pool) work(task func()) {
	tasks := make(chan func(), 1) // so that Go never waits for this goroutine
	for task != nil {
		task()
		if !p.rest(tasks) {
			return
		}
		task = <-tasks
	}
}

// rest puts a goroutine among the idle, if there is a place.
func (p *Pool) rest(tasks chan func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= maxIdle {
		return false
	}
	p.idle = append(p.idle, tasks)
	return true
}

// Trim ends the idle goroutines, which gives their stacks back.
func (p *Pool) Trim() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, tasks := range idle {
		tasks <- nil
	}
}

// Close ends the idle goroutines and waits for those that work. Tasks given
// later still run.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Trim()
	p.working.Wait()
}
