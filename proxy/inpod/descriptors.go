package inpod

import (
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// descriptors is how many a busy node needs: about eight for a pod and two for a connection. The kernel has a pointer for each.
	descriptors = 8192
	// fewDescriptors are not worth the while.
	fewDescriptors = 256
)

// makeRoom has the kernel's table of the process's descriptors grow before they are opened. The table doubles whenever it is full, and
// with more than one thread whoever opens the descriptor then waits until no CPU can see the old table, which takes ten milliseconds. That
// would be a pod's start or a connection's. It waits as long, and is best effort: with a low limit the table grows as it is needed.
func makeRoom(log *slog.Logger) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		log.Debug("the limit of descriptors is not known", "error", os.NewSyscallError("getrlimit", err))
		return
	}
	last := int(min(limit.Cur, descriptors)) - 1
	if last < fewDescriptors {
		return
	}
	fd, err := unix.FcntlInt(uintptr(unix.Stdin), unix.F_DUPFD_CLOEXEC, last)
	if err != nil {
		log.Debug("no room for descriptors was made", "error", os.NewSyscallError("fcntl", err))
		return
	}
	_ = unix.Close(fd)
}
