package mesh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
)

// Privileged tells whether the process is root, be it of a user namespace, and
// may so make a mesh.
func Privileged() bool { return os.Geteuid() == 0 }

// Enter runs this program again, with the given arguments, as root of a user
// namespace with network and mount namespaces of its own, and returns its exit
// status. It is for a process that is not [Privileged]. The error says that the
// kernel does not allow it. Signals are passed on; a Ctrl-C of the terminal may
// arrive in the child twice.
func Enter(args []string) (status int, err error) {
	// The child is told when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A context could only kill it; signals are passed on.
	child := exec.CommandContext(context.Background(), "/proc/self/exe", args...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGTERM,
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := child.Start(); err != nil {
		return 1, fmt.Errorf("make a user namespace: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }() // received below
	for {
		select {
		case s := <-signals:
			_ = child.Process.Signal(s) // it may have ended; then so do we
		case err := <-ended:
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				return max(exit.ExitCode(), 1), nil
			}
			return 0, err
		}
	}
}
