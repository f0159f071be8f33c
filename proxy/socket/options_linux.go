package socket

import (
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setMark sets SO_MARK; 0 sets nothing.
func setMark(fd int, mark uint32) error {
	if mark == 0 {
		return nil
	}
	return os.NewSyscallError("setsockopt SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
}

// setKeepalive applies the keepalive settings. Errors are ignored, as in the reference: a connection without keepalive
// is better than none.
func setKeepalive(fd int, k *Keepalive) {
	if k.Enabled {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds(k.Time))
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds(k.Interval))
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, k.Retries)
	}
	if k.UserTimeout {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(k.timeout().Milliseconds()))
	}
}

// clearKeepalive undoes on an accepted socket what setKeepalive did on its listener.
func clearKeepalive(fd int, k *Keepalive) {
	if k.Enabled {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0)
	}
	if k.UserTimeout {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0)
	}
}

func seconds(d time.Duration) int {
	return max(1, int(d/time.Second))
}

// SetNotSentLowat limits the bytes that wait unsent in the socket's send queue (TCP_NOTSENT_LOWAT): the socket counts
// as writable only below that. Tunnels need it so that one bulk stream does not queue before every other.
func SetNotSentLowat(c *net.TCPConn, bytes int) error {
	return control(c, func(fd int) error {
		return os.NewSyscallError("setsockopt TCP_NOTSENT_LOWAT",
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes))
	})
}

// control runs fn with the descriptor of c, which is not closed meanwhile.
func control(c syscall.Conn, fn func(fd int) error) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return controlRaw(rc, fn)
}
