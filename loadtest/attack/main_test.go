package attack

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"ztunnel/proxy/needs"
)

// ownNamespace marks a process that has a network namespace for itself.
const ownNamespace = "ATTACK_TEST_NAMESPACE"

// Attacks know the ports that they come at, so the whole process goes where
// nobody else has them, into a network namespace: one thread enters it, and after
// the exec there is no other.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(ownNamespace) != "":
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case os.Geteuid() == 0:
		runtime.LockOSThread()
		if unix.Unshare(unix.CLONE_NEWNET) == nil { // root of a container may not
			err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), ownNamespace+"=1"))
			fmt.Fprintln(os.Stderr, "run the tests in a network namespace:", err)
			os.Exit(1)
		}
		runtime.UnlockOSThread()
	}
	goleak.VerifyTestMain(m)
}

// What the kernel has not sent of a connection is lost when the attacker resets
// it: the least of a buffer there may be, and what is sent as one packet.
const (
	sendBuffer = 8 << 10
	mostLost   = sendBuffer + 64<<10
)

// furnish makes the namespace one in which everybody is attacked.
func furnish() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	to := &netlink.Addr{IPNet: netlink.NewIPNet(nowhere.Addr().AsSlice())}
	if err := netlink.AddrAdd(lo, to); err != nil {
		return fmt.Errorf("add %s: %w", to, err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/tcp_wmem", fmt.Appendf(nil, "4096 %d %[1]d", sendBuffer), 0)
}

// alone is for tests that need the namespace.
func alone(t *testing.T) {
	t.Helper()
	needs.Root(t)
	if os.Getenv(ownNamespace) == "" {
		needs.Missing(t, "this test needs a network namespace")
	}
}
