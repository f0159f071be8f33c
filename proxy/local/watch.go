package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settle is how long the directory has to be quiet before the file is read; settleMax bounds that wait.
	settle    = 100 * time.Millisecond
	settleMax = time.Second
	// pollWatched and pollAlone are how often the file is looked at without an event: rarely, for changes behind a
	// symbolic link out of the directory and for a directory that was replaced; and often where events can't be had.
	pollWatched = 30 * time.Second
	pollAlone   = 2 * time.Second
)

// Watch reads the file again whenever it changes, until ctx ends; then it returns nil. It watches the file's directory, so
// that a file that is replaced by renaming is noticed, as well as the symbolic links by which Kubernetes replaces mounted
// files. Change a file by writing another one and renaming it: a file that is written in place may be read half written.
// For an inline configuration Watch only waits for the end of ctx.
func (s *Source) Watch(ctx context.Context) error {
	if s.cfg.Path == "" {
		<-ctx.Done()
		return nil
	}
	w, err := newWatcher(filepath.Dir(s.cfg.Path))
	if err != nil {
		s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "local config is polled, its directory can't be watched", slog.String("error", err.Error()))
		return s.poll(ctx, pollAlone)
	}
	defer w.close()
	stop := context.AfterFunc(ctx, w.interrupt)
	defer stop()
	// What changed between Load and the watch is not told by any event.
	s.reload()
	seen := stamp(s.cfg.Path)
	for ctx.Err() == nil {
		events, err := w.wait(ctx, pollWatched)
		if err != nil {
			s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "local config is polled, watching its directory failed", slog.String("error", err.Error()))
			return s.poll(ctx, pollAlone)
		}
		if ctx.Err() != nil {
			break
		}
		_ = w.watch() // anew, in case the directory was replaced; while there is none, the file is polled
		now := stamp(s.cfg.Path)
		if events || now != seen {
			seen = now
			s.reload()
		}
	}
	return nil
}

// poll is Watch without events.
func (s *Source) poll(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	seen := ""
	for {
		if now := stamp(s.cfg.Path); now != seen {
			seen = now
			s.reload()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// stamp tells whether a file is likely to be another one than before, without reading it. Links are followed.
func stamp(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err.Error()
	}
	return fmt.Sprint(st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim)
}

// watcher receives the events of one directory.
type watcher struct {
	dir string
	f   *os.File // the inotify descriptor
}

func newWatcher(dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	w := &watcher{dir: dir, f: os.NewFile(uintptr(fd), "inotify")}
	if err := w.watch(); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// watch begins to watch the directory. For one that is watched already it does nothing.
func (w *watcher) watch() error {
	conn, err := w.f.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch %s: %w", w.dir, err)
	}
	const what = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_ATTRIB
	var addErr error
	if err := conn.Control(func(fd uintptr) { _, addErr = unix.InotifyAddWatch(int(fd), w.dir, what) }); err != nil {
		return fmt.Errorf("watch %s: %w", w.dir, err)
	}
	if addErr != nil {
		return fmt.Errorf("watch %s: %w", w.dir, addErr)
	}
	return nil
}

// wait returns true when there were events and the directory is quiet again, and false when nothing happened for d.
func (w *watcher) wait(ctx context.Context, d time.Duration) (bool, error) {
	if got, err := w.read(ctx, time.Now().Add(d)); !got || err != nil {
		return false, err
	}
	end := time.Now().Add(settleMax)
	for {
		deadline := time.Now().Add(settle)
		if deadline.After(end) {
			return true, nil
		}
		if got, err := w.read(ctx, deadline); !got || err != nil {
			return true, err
		}
	}
}

// read waits for events until the deadline or the end of ctx and throws them away: which file of the directory they speak
// of says nothing about where its links lead.
func (w *watcher) read(ctx context.Context, deadline time.Time) (bool, error) {
	if err := w.f.SetReadDeadline(deadline); err != nil {
		return false, fmt.Errorf("read inotify events: %w", err)
	}
	if ctx.Err() != nil {
		return false, nil // interrupt may have come before the deadline was set
	}
	var buf [4096]byte
	switch _, err := w.f.Read(buf[:]); {
	case err == nil:
		return true, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false, nil
	default:
		return false, fmt.Errorf("read inotify events: %w", err)
	}
}

// interrupt ends a read that is under way. It may be called at any time, by any goroutine.
func (w *watcher) interrupt() { _ = w.f.SetReadDeadline(time.Unix(1, 0)) }

func (w *watcher) close() { _ = w.f.Close() }
