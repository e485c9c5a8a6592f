package pace

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/cgroup"
)

// Host is the Meter of this host and a container on it.
type Host struct {
	stat      *os.File
	container *cgroup.Usage // nil: nothing is known of it
}

// OpenHost makes the meter for the container that the process is in. Where its CPU time is not accounted for it counts as one that
// takes none. The caller must close the meter.
func OpenHost(pid int) (*Host, error) {
	u, err := cgroup.UsageOf(pid)
	if err != nil {
		u = nil
	}
	f, err := os.Open("/proc/stat")
	if err != nil {
		return nil, fmt.Errorf("watch the host's CPUs: %w", err)
	}
	return &Host{stat: f, container: u}, nil
}

// Close gives the meter up.
func (h *Host) Close() error { return h.stat.Close() }

// Sample looks at everything at once.
func (h *Host) Sample() (Sample, error) {
	var head [512]byte // the first line is about all CPUs
	n, err := h.stat.ReadAt(head[:], 0)
	if n == 0 {
		return Sample{}, fmt.Errorf("watch the host's CPUs: %w", err)
	}
	idle, err := parseIdle(head[:n])
	if err != nil {
		return Sample{}, fmt.Errorf("watch the host's CPUs: %w", err)
	}
	s := Sample{At: time.Now(), Idle: idle, Self: cpuTime()}
	if h.container != nil {
		if s.Container, err = h.container.Time(); err != nil {
			return Sample{}, fmt.Errorf("watch the container: %w", err)
		}
	}
	return s, nil
}

// tick is the unit of /proc/stat, which is the same on all machines (USER_HZ, proc_stat(5)).
const tick = 10 * time.Millisecond

// parseIdle reads how long CPUs had nothing to do or waited for disks, from the first line of /proc/stat.
func parseIdle(stat []byte) (time.Duration, error) {
	line, _, _ := bytes.Cut(stat, []byte{'\n'})
	f := bytes.Fields(line)
	const name, idle, iowait = 0, 4, 5
	if len(f) <= iowait || string(f[name]) != "cpu" {
		return 0, errors.New("/proc/stat does not begin with all CPUs")
	}
	total := time.Duration(0)
	for _, i := range []int{idle, iowait} {
		n, err := strconv.ParseInt(string(f[i]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		total += time.Duration(n) * tick
	}
	return total, nil
}

// cpuTime is what this process has taken, with all its threads.
func cpuTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) // fails for no process that is alive
	return time.Duration(ts.Nano())
}
