package relay

import (
	"errors"
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// pour writes to c until the kernel takes no more, and returns how much that was.
func pour(t *testing.T, c interface {
	io.Writer
	SetWriteDeadline(time.Time) error
},
) (total int) {
	t.Helper()
	block := make([]byte, 256<<10)
	for {
		if err := c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Write(block)
		total += n
		if err != nil {
			return total
		}
	}
}

// drained waits until the process has no pipe open but idle ones, and has the garbage collector close these.
func drained(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for pipes.open.Load() > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d pipes are still open", pipes.open.Load())
		}
		runtime.GC()
	}
}

// A direction that moves much uses a pipe, and what is in it is not lost when the receiver stalls.
func TestSplice_Stall(t *testing.T) {
	drained(t)
	r := startRelay(t)
	total := pour(t, r.client)
	if pipes.open.Load() == 0 {
		t.Error("no pipe is used")
	}
	r.client.CloseWrite()
	if n, err := io.Copy(io.Discard, struct{ io.Reader }{r.server}); n != int64(total) || err != nil {
		t.Errorf("read %d bytes, %v, want %d", n, err, total)
	}
	r.server.Close()
	r.want(t, nil, uint64(total), 0)
	drained(t)
}

// What is in a pipe when the copy fails is not given to another connection.
func TestSplice_FailureDiscards(t *testing.T) {
	drained(t)
	r := startRelay(t)
	pour(t, r.client)
	if pipes.open.Load() == 0 {
		t.Error("no pipe is used")
	}
	r.server.SetLinger(0)
	r.server.Close()
	if err := <-r.result; err != nil {
		t.Errorf("Copy = %v, want none for a reset", err)
	}
	for range maxPipes {
		p := takePipe()
		if p == nil {
			break
		}
		defer p.discard()
		if n, err := syscall.Read(p.ends[0], make([]byte, 1)); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("a pipe holds something: %d, %v", n, err)
		}
	}
}

// Small messages leave the pipe again, and an idle connection has none.
func TestSplice_ChangesBack(t *testing.T) {
	drained(t)
	r := startRelay(t)
	total := pour(t, r.client)
	if err := r.client.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r.server, int64(total)); err != nil {
		t.Fatal(err)
	}
	message := []byte("message")
	for range 3 * spliceAfter {
		write(t, r.client, message)
		wantRead(t, r.server, message)
		total += len(message)
	}
	drained(t) // although the connection is open
	r.client.Close()
	r.server.Close()
	r.want(t, nil, uint64(total), 0)
}

// Without pipes, buffers do.
func TestSplice_Limit(t *testing.T) {
	drained(t)
	var taken []*pipe
	for range maxPipes {
		p := takePipe()
		if p == nil {
			t.Fatalf("only %d pipes", len(taken))
		}
		taken = append(taken, p)
	}
	if p := takePipe(); p != nil {
		t.Errorf("more than %d pipes", maxPipes)
	}
	t.Run("bulk", TestCopyBulk)
	for _, p := range taken {
		p.release()
	}
	drained(t)
}
