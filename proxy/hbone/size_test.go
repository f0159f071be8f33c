package hbone

import (
	"testing"
	"unsafe"
)

// There are as many idle streams as idle connections, so each byte of one
// counts. The limits are size classes of the allocator.
func TestIdleStreamIsSmall(t *testing.T) {
	for _, tc := range []struct {
		name      string
		got, want uintptr
	}{
		{"Stream", unsafe.Sizeof(Stream{}), 160},
		{"relayState", unsafe.Sizeof(relayState{}), 192},
	} {
		if tc.got > tc.want {
			t.Errorf("size of %s = %d, want at most %d", tc.name, tc.got, tc.want)
		}
	}
}
