package socket

import (
	"bytes"
	"fmt"
	"os"
)

// noLoopbackIPv6 is the kernel's switch of the loopback interface; which namespace's it is depends on the thread that opens it.
const noLoopbackIPv6 = "/proc/sys/net/ipv6/conf/lo/disable_ipv6"

// LoopbackIPv6 reports whether ::1 can be bound in the factory's namespace. With an error, which is worth a warning, it is true.
// It is slow where there are many namespaces.
func (f *Factory) LoopbackIPv6() (bool, error) {
	var content []byte
	err := f.Visit(func(*Factory) (err error) {
		content, err = os.ReadFile(noLoopbackIPv6)
		return err
	})
	if err != nil {
		return true, fmt.Errorf("assume that IPv6 is enabled for localhost: %w", err)
	}
	return string(bytes.TrimSpace(content)) != "1", nil
}
