package proxy

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// tcpListen is the state of a listening socket in /proc/net/tcp.
const tcpListen = "0A"

// Listens reports whether some socket in the network namespace of the process
// listens on a TCP port. It reads the kernel's table, so ask rarely.
func Listens(port uint16) bool {
	// The process's first thread, which /proc/self/net is of, may be in the namespace of a pod just now.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return tableListens("/proc/thread-self/net/tcp", port) || tableListens("/proc/thread-self/net/tcp6", port)
}

func tableListens(path string, port uint16) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	suffix := fmt.Sprintf(":%04X", port)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 3 && fields[3] == tcpListen && strings.HasSuffix(fields[1], suffix) {
			return true
		}
	}
	return false
}
