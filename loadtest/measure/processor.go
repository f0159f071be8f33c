package measure

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userTick is the unit of times in /proc: USER_HZ, which is 100 on all that Go
// runs on.
const userTick = 10 * time.Millisecond

// processorTime is what a process has used so far.
func processorTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	used, err := usedTime(string(stat))
	if err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return used, nil
}

// usedTime reads user and system time, the 14th and 15th field of a process's
// stat. The second is a name in brackets, which may have anything in it.
func usedTime(stat string) (time.Duration, error) {
	rest, _ := afterLast(stat, ")")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("too few fields in its stat")
	}
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	if err != nil {
		return 0, err
	}
	return time.Duration(user+system) * userTick, nil
}

// afterLast returns what follows the last sep.
func afterLast(s, sep string) (after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", false
	}
	return s[i+len(sep):], true
}

// How the threads of this process may yield the processors to others.
var (
	// background threads run only when nobody else wants to. The lowest priority is
	// not enough for that: since Linux 6.6 whoever has begun to run keeps the
	// processor for a slice of time, at any priority, but for this policy.
	background = unix.SchedAttr{Policy: unix.SCHED_IDLE}
	// lowest gets little, but some, when others want to run all the time.
	lowest = unix.SchedAttr{Policy: unix.SCHED_NORMAL, Nice: 19}
)

// yieldProcessor makes all threads of this process, and so those that they will
// make, yield, until restore is called; it may be called twice. Processes that it
// has started go on as before, those that it will start yield too.
func yieldProcessor(to unix.SchedAttr) (restore func(), err error) {
	if err := schedule(to); err != nil {
		return nil, err
	}
	return func() { _ = schedule(unix.SchedAttr{Policy: unix.SCHED_NORMAL}) }, nil // who may not go back stays behind
}

// schedule sets how all threads are scheduled.
func schedule(attr unix.SchedAttr) error {
	attr.Size = unix.SizeofSchedAttr
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list own threads: %w", err)
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.SchedSetAttr(id, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("set the policy of own thread: %w", err)
		}
	}
	return nil
}
