//go:build race

package relay

import "syscall"

// transfer leaves the call to package syscall, which tells the race detector that what was before a write is before the
// read of it. Without that, both ends of a connection in one process seem to race.
func transfer(call, fd uintptr, p []byte) (int, syscall.Errno) {
	do := syscall.Read
	if call == syscall.SYS_WRITE {
		do = syscall.Write
	}
	for {
		n, err := do(int(fd), p)
		switch err {
		case nil:
			return n, 0
		case syscall.EINTR:
		default:
			return 0, err.(syscall.Errno)
		}
	}
}
