package reclaim

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// span is a range of addresses.
type span struct{ from, to uintptr }

// program finds the mappings of the program's own file that are never written:
// code, constants and tables.
func program() ([]span, error) {
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("find the program: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, fmt.Errorf("read the mappings: %w", err)
	}
	defer maps.Close()
	return readOnly(maps, path)
}

// readOnly picks the private mappings of a file without write permission from a
// table in the form of /proc/self/maps.
func readOnly(maps io.Reader, path string) ([]span, error) {
	var spans []span
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || strings.Join(fields[5:], " ") != path || len(fields[1]) != 4 ||
			fields[1][0] != 'r' || fields[1][1] != '-' || fields[1][3] != 'p' {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		a, errA := strconv.ParseUint(from, 16, 64)
		b, errB := strconv.ParseUint(to, 16, 64)
		if errA != nil || errB != nil || b <= a {
			return nil, fmt.Errorf("mapping %q is not understood", lines.Text())
		}
		spans = append(spans, span{uintptr(a), uintptr(b)})
	}
	return spans, lines.Err()
}

// release unmaps the pages of the spans from the process. They stay in the page
// cache, and those still in use come back by a minor fault each: much of a
// program runs only while it starts.
func release(spans []span) {
	for _, s := range spans {
		// The range is mapped from a file and never written, so nothing can be
		// lost; a kernel that refuses changes nothing.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, s.from, s.to-s.from, unix.MADV_DONTNEED)
	}
}
