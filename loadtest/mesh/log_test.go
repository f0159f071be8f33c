package mesh

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

func testLog(t *testing.T) *Log {
	t.Helper()
	l, err := newLog(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close() })
	return l
}

func write(t *testing.T, l *Log, text string) {
	t.Helper()
	if n, err := l.Write([]byte(text)); n != len(text) || err != nil {
		t.Fatalf("Write(%q) = %d, %v", text, n, err)
	}
}

func TestLogLines(t *testing.T) {
	l := testLog(t)
	write(t, l, "one\ntw")
	write(t, l, "o\n\nthr")
	if diff := cmp.Diff([]string{"one", "two", ""}, l.Tail(10)); diff != "" {
		t.Errorf("Tail(10) (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{""}, l.Tail(1)); diff != "" {
		t.Errorf("Tail(1) (-want +got):\n%s", diff)
	}
	long := strings.Repeat("x", maxLogLine)
	write(t, l, long)
	write(t, l, long+"\nnext\n")
	if got := l.Tail(2); len(got[0]) != maxLogLine || got[1] != "next" {
		t.Errorf("a long line has %d bytes and is followed by %q, want %d and next", len(got[0]), got[1], maxLogLine)
	}
}

func TestLogForgets(t *testing.T) {
	l := testLog(t)
	for i := range 3 * maxLogLines {
		write(t, l, fmt.Sprintf("%d\n", i))
	}
	if l.Len() != 3*maxLogLines {
		t.Errorf("Len() = %d, want %d", l.Len(), 3*maxLogLines)
	}
	if got := len(l.Tail(10 * maxLogLines)); got < maxLogLines || got > 2*maxLogLines {
		t.Errorf("%d lines are remembered, want %d to %d", got, maxLogLines, 2*maxLogLines)
	}
	is := func(want string) func(string) bool { return func(line string) bool { return line == want } }
	last := fmt.Sprint(3*maxLogLines - 1)
	if got, err := l.Await(t.Context(), l.Len()-1, is(last)); got != last || err != nil {
		t.Errorf("Await of the last line = %q, %v", got, err)
	}
}

func TestLogAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLog(t)
		write(t, l, "b 1\n")
		since := l.Len()
		found := make(chan string)
		go func() {
			line, err := l.Await(t.Context(), since, func(line string) bool { return strings.HasPrefix(line, "b") })
			found <- fmt.Sprint(line, err)
		}()
		synctest.Wait()
		write(t, l, "a\nb 2")
		synctest.Wait()
		write(t, l, "\n")
		if got, want := <-found, "b 2<nil>"; got != want {
			t.Errorf("Await = %q, want %q", got, want)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		cancel(enough)
		if _, err := l.Await(ctx, 0, func(string) bool { return false }); !errors.Is(err, enough) {
			t.Errorf("Await after cancel = %v, want %v", err, enough)
		}
	})
}
