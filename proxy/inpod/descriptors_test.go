package inpod

import (
	"bytes"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The table is as large as it may become, and no descriptor stays open.
func TestMakeRoom(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	before := len(openFiles(t))
	makeRoom(slog.New(slog.DiscardHandler))
	if size, want := tableSize(t), int(min(limit.Cur, descriptors)); size < want {
		t.Errorf("the kernel's table has room for %d descriptors, want at least %d", size, want)
	}
	if after := len(openFiles(t)); after != before {
		t.Errorf("%d descriptors are open, want %d as before", after, before)
	}
}

// tableSize is the size of the kernel's table of descriptors.
func tableSize(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if rest, ok := strings.CutPrefix(string(line), "FDSize:"); ok {
			size, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil {
				t.Fatal(err)
			}
			return size
		}
	}
	t.Fatal("the kernel does not tell the size of its table")
	return 0
}
