package relay

import (
	"sync"
	"sync/atomic"
)

// A buffer is taken when a socket is readable and given back when it is not, so it is no cost of an idle connection and
// its size matters for busy ones only: a read that fills it moves the direction one size up, a run of reads that
// leave it nearly empty one size down.
const (
	sizes      = 4
	smallest   = 4 << 10 // bytes; 16 KiB, 64 KiB and 256 KiB follow
	sizeFactor = 4
	// smallReads is the number of consecutive small reads after which a direction goes one size down.
	smallReads = 5
	// maxLargest limits the largest buffers in use at a time in the process: 16 MiB. A direction that gets none goes
	// on with the size below.
	maxLargest = 64
)

// buffer is one pooled buffer.
type buffer struct {
	size  uint8 // index of its size
	bytes []byte
}

// buffers are the process's idle buffers by size. The garbage collector frees what is not used.
var buffers struct {
	pools   [sizes]sync.Pool
	largest atomic.Int32 // buffers of the largest size in use
}

// takeBuffer returns a buffer of the size with the given index, or of the next smaller size when the limit of the
// largest is reached. The caller gives it back with release.
func takeBuffer(size uint8) *buffer {
	if size == sizes-1 && buffers.largest.Add(1) > maxLargest {
		buffers.largest.Add(-1)
		size--
	}
	if b, ok := buffers.pools[size].Get().(*buffer); ok {
		return b
	}
	n := smallest
	for range size {
		n *= sizeFactor
	}
	return &buffer{size: size, bytes: make([]byte, n)}
}

// release gives the buffer back; it must not be used afterwards.
func (b *buffer) release() {
	if b.size == sizes-1 {
		buffers.largest.Add(-1)
	}
	buffers.pools[b.size].Put(b)
}
