package relay

import "syscall"

// RawRead is read(2) on a socket that package net has made non-blocking, repeated when a signal interrupts it. The call
// never sleeps, so the scheduler is not told of it: that would cost more than a small call, and the scheduler's monitor
// would take the processor away during the copy of a large one. n is 0 with an error, and at end of file.
func RawRead(fd uintptr, p []byte) (n int, errno syscall.Errno) {
	return transfer(syscall.SYS_READ, fd, p)
}

// RawWrite is write(2) in the manner of RawRead.
func RawWrite(fd uintptr, p []byte) (n int, errno syscall.Errno) {
	return transfer(syscall.SYS_WRITE, fd, p)
}
