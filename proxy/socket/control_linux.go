package socket

import "syscall"

// Control sets the factory's mark on a socket that package net creates, for
// use as [net.Dialer.Control]. It is for sockets that Dial cannot make, such as
// UDP.
func (f *Factory) Control(_, _ string, c syscall.RawConn) error {
	var err error
	if controlErr := c.Control(func(fd uintptr) { err = setMark(int(fd), f.cfg.Mark) }); controlErr != nil {
		return controlErr
	}
	return err
}
