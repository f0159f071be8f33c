package mesh

import (
	"bytes"
	"context"
	"os"
	"sync"
)

// maxLogLines is how many lines of a process are remembered at least; its file
// has all. Twice as many are cut back to it.
const maxLogLines = 10000

// maxLogLine cuts longer lines, in what is remembered.
const maxLogLine = 64 << 10

// Log is what a process has written: all of it in a file, and the last lines
// in memory. Its methods may be called concurrently.
type Log struct {
	// Path is the file.
	Path string
	file *os.File

	mu      sync.Mutex
	partial []byte
	lines   []string
	first   int           // number of lines[0] among all lines
	changed chan struct{} // closed with the next line
}

func newLog(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &Log{Path: path, file: f, changed: make(chan struct{})}, nil
}

// Write implements io.Writer for the process.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := b; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte{'\n'})
		l.partial = append(l.partial, line[:min(len(line), maxLogLine-min(maxLogLine, len(l.partial)))]...)
		if rest = after; !whole {
			break
		}
		l.lines = append(l.lines, string(l.partial))
		l.partial = l.partial[:0]
	}
	if len(l.lines) > 2*maxLogLines {
		l.first += len(l.lines) - maxLogLines
		l.lines = append([]string(nil), l.lines[len(l.lines)-maxLogLines:]...)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return l.file.Write(b)
}

func (l *Log) close() error { return l.file.Close() }

// Tail is the last n lines.
func (l *Log) Tail(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines[max(0, len(l.lines)-n):]...)
}

// Len is the number of lines so far; Await can begin there.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first + len(l.lines)
}

// Await returns the first line that matches among those from number since on,
// and waits for one until ctx ends, when it returns its error.
func (l *Log) Await(ctx context.Context, since int, match func(line string) bool) (string, error) {
	for {
		l.mu.Lock()
		changed := l.changed
		lines := l.lines[min(len(l.lines), max(0, since-l.first)):]
		since = l.first + len(l.lines)
		l.mu.Unlock()
		for _, line := range lines {
			if match(line) {
				return line, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}
