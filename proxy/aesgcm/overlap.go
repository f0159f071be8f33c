package aesgcm

import "unsafe"

// checkOverlap panics when a and b share memory without beginning at the same address.
func checkOverlap(a, b []byte) {
	if len(a) == 0 || len(b) == 0 || &a[0] == &b[0] {
		return
	}
	// Only numbers are compared, so it does no harm if the memory moves in between.
	from, to := uintptr(unsafe.Pointer(&a[0])), uintptr(unsafe.Pointer(&b[0]))
	if from < to+uintptr(len(b)) && to < from+uintptr(len(a)) {
		panic("aesgcm: input and output overlap")
	}
}
