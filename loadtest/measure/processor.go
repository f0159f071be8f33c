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

// lowest is the priority of who yields to everybody.
const lowest = 19

// yieldProcessor gives all threads of this process, and so those that they will
// make, the lowest priority, until restore is called. Processes that it has
// started keep theirs.
func yieldProcessor() (restore func(), err error) {
	if err := prioritize(lowest); err != nil {
		return nil, err
	}
	return func() { _ = prioritize(0) }, nil // who may not go back stays behind
}

func prioritize(priority int) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list own threads: %w", err)
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, id, priority); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("set priority of own thread: %w", err)
		}
	}
	return nil
}
