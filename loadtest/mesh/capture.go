package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxCapture bounds the bytes that a capture keeps. What comes later is lost,
	// and counted.
	maxCapture = 64 << 20
	// captureQueue is the kernel's queue. It must hold what arrives while the
	// reader gets no CPU.
	captureQueue = 32 << 20
	// largestPacket is more than segmentation offload ever joins.
	largestPacket = 256 << 10
)

// Capture is a running recording of all packets of one interface, both ways.
type Capture struct {
	file    *os.File
	reading sync.WaitGroup
	once    sync.Once

	packets [][]byte // of the reader until it has ended
	size    int
	lost    int
	err     error
}

// capture begins a recording of the interface. Packets that are sent after it
// returns are in it.
func (m *Mesh) capture(ns *Namespace, iface string) (*Capture, error) {
	var fd int
	err := ns.Do(func() (err error) {
		fd, err = packetSocket(iface)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture %s of %s: %w", iface, ns.Name, err)
	}
	c := &Capture{file: os.NewFile(uintptr(fd), "capture of "+iface)}
	c.reading.Go(c.read)
	if err := m.keep(c); err != nil {
		return nil, err
	}
	return c, nil
}

// packetSocket opens a raw socket for all packets of an interface. It gets none
// before it is bound, so that none of another interface is in its queue.
func packetSocket(iface string) (fd int, err error) {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return -1, err
	}
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	// Beyond the system's maximum this needs a capability of the host, which a
	// user namespace does not have: then the maximum must do. Losses are counted.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureQueue) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, captureQueue)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: link.Index})
	}
	if err != nil {
		_ = unix.Close(fd) // the other error counts
		return -1, fmt.Errorf("bind packet socket: %w", err)
	}
	return fd, nil
}

// networkOrder is a 16-bit number as the kernel wants it: its high byte first.
func networkOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16([]byte{byte(n >> 8), byte(n)})
}

// read reads until the socket's deadline.
func (c *Capture) read() {
	buffer := make([]byte, largestPacket)
	for {
		n, err := c.file.Read(buffer)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, os.ErrClosed) {
				c.err = fmt.Errorf("read packet: %w", err)
			}
			return
		}
		c.add(buffer[:n])
	}
}

func (c *Capture) add(packet []byte) {
	if c.size+len(packet) > maxCapture {
		c.lost++
		return
	}
	c.size += len(packet)
	c.packets = append(c.packets, append([]byte(nil), packet...))
}

// Stop ends the recording and returns what was recorded. Packets that were sent
// before the call are in it, or are counted as lost. Call it once.
func (c *Capture) Stop() (*Packets, error) {
	defer c.Close() //nolint:errcheck // the result is there, or another error
	if err := c.file.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return nil, fmt.Errorf("end capture: %w", err)
	}
	c.reading.Wait()
	if c.err != nil {
		return nil, c.err
	}
	raw, err := c.file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("end capture: %w", err)
	}
	var drainErr error
	err = raw.Control(func(fd uintptr) { drainErr = c.drain(int(fd)) })
	if err := errors.Join(err, drainErr); err != nil {
		return nil, fmt.Errorf("end capture: %w", err)
	}
	return newPackets(c.packets, c.lost), nil
}

// drain reads what is still in the queue and asks what did not fit into it.
func (c *Capture) drain(fd int) error {
	buffer := make([]byte, largestPacket)
	for {
		n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			statistics, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
			if err != nil {
				return fmt.Errorf("ask for lost packets: %w", err)
			}
			c.lost += int(statistics.Drops)
			return nil
		case err != nil:
			return fmt.Errorf("read packet: %w", err)
		}
		c.add(buffer[:n])
	}
}

// Close ends the recording without a result.
func (c *Capture) Close() (err error) {
	c.once.Do(func() {
		err = c.file.Close()
		c.reading.Wait()
	})
	return err
}
