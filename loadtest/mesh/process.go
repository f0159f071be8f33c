package mesh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"github.com/vishvananda/netns"
)

// Command is what a process is to be.
type Command struct {
	Path string
	Args []string
	// Env is its whole environment; nil is none, not that of this process.
	Env []string
	// LogFile is where what it writes goes. It must not exist.
	LogFile string
}

// Process is a process in a namespace of the mesh. It has a process group of
// its own, so that a Ctrl-C in the terminal leaves it to the mesh to end it,
// and it ends with this process however this one ends.
type Process struct {
	// Log is what it has written.
	Log   *Log
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of Wait; set before ended is closed
}

// start starts a command in a namespace. The process is killed, and waited for,
// by Close of the mesh at the latest.
func (m *Mesh) start(ns *Namespace, c Command) (*Process, error) {
	log, err := newLog(c.LogFile)
	if err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", c.Path, ns.Name, err)
	}
	// A context could only kill it; Close does.
	cmd := exec.CommandContext(context.Background(), c.Path, c.Args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append([]string{}, c.Env...), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := m.starter.start(ns, cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s in %s: %w", c.Path, ns.Name, err), log.close())
	}
	p := &Process{Log: log, cmd: cmd, ended: make(chan struct{})}
	go func() { // ended tells Close
		p.err = errors.Join(cmd.Wait(), log.close())
		close(p.ended)
	}()
	if err := m.keep(p); err != nil {
		return nil, err
	}
	return p, nil
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal. A process that has ended gets none, which is no error.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Ended is closed when it has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Wait waits for its end. The error is nil only after exit status 0.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.ended:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close kills the process and waits for its end.
func (p *Process) Close() error {
	err := p.Signal(syscall.SIGKILL)
	<-p.ended
	return err
}

// starter starts all processes from one thread that lives as long as they do:
// the kernel kills a child with Pdeathsig when the thread that started it ends,
// and the Go runtime may end any other thread.
type starter struct {
	requests chan startRequest
	running  sync.WaitGroup

	mu      sync.Mutex
	stopped bool
}

type startRequest struct {
	ns     *Namespace
	cmd    *exec.Cmd
	result chan error
}

func newStarter() *starter {
	s := &starter{requests: make(chan startRequest)}
	s.running.Go(s.run)
	return s
}

// run stays locked to its thread, which is in no particular namespace, until
// the end of both.
func (s *starter) run() {
	runtime.LockOSThread()
	for r := range s.requests {
		// A new process is in the namespace of the thread that clones it.
		err := netns.Set(r.ns.handle)
		if err == nil {
			err = r.cmd.Start()
		}
		r.result <- err
	}
}

func (s *starter) start(ns *Namespace, cmd *exec.Cmd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errClosed
	}
	r := startRequest{ns, cmd, make(chan error, 1)}
	s.requests <- r
	return <-r.result
}

// stop ends the thread, and with it what it has started.
func (s *starter) stop() {
	s.mu.Lock()
	s.stopped = true
	close(s.requests)
	s.mu.Unlock()
	s.running.Wait()
}
