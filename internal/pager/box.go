package pager

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/criu"
)

// box is the container, as far as it takes to kill it.
type box struct {
	freezer *criu.Freezer
	init    int // pidfd; -1 if there is none
	// own says that the first process has a pid namespace of its own, with which all others end. What is in the cgroup afterwards is another
	// run of the container, which an engine has started by its restart policy.
	own bool
}

// openBox takes the path of the freezer's state file, or "", and the pid of the container's first process, or 0.
func openBox(freezer string, pid int) (*box, error) {
	b := &box{freezer: criu.NewFreezer(freezer), init: -1}
	if pid > 0 {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return nil, fmt.Errorf("open the container's first process: %w", err)
		}
		if err == nil {
			b.init = fd
			b.own = ownPids(pid)
		}
	}
	return b, nil
}

func ownPids(pid int) bool {
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return false
	}
	ours, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && theirs != ours
}

const (
	killPause  = 10 * time.Millisecond
	killReport = 10 * time.Second // how often it is said that something is still there
)

// kill ends every task of the container and returns when none is left: until then the descriptors must stay open.
func (b *box) kill(log *slog.Logger) {
	report := time.Now().Add(killReport)
	for !b.own || !exited(b.init) {
		var errs []error
		if b.init >= 0 {
			if err := unix.PidfdSendSignal(b.init, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("kill the container's first process: %w", err))
			}
		}
		// tasks that were frozen die when they are thawed
		errs = append(errs, b.freezer.KillAll(), b.freezer.Thaw())
		left, err := b.left()
		if err == nil && !left {
			return
		}
		if time.Now().After(report) {
			log.Error("the container does not end", "error", errors.Join(errs...))
			report = time.Now().Add(killReport)
		}
		time.Sleep(killPause)
	}
}

// left tells whether any task has not ended yet.
func (b *box) left() (bool, error) {
	if b.init >= 0 && !exited(b.init) {
		return true, nil
	}
	if b.own {
		return false, nil
	}
	pids, err := b.freezer.Tasks()
	return slices.ContainsFunc(pids, alive), err
}

// exited tells whether the process of a pidfd has ended, reaped or not.
func exited(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// alive reads the state from /proc/PID/stat (proc(5)); zombies hold no memory.
func alive(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	rest := bytes.TrimSpace(b[bytes.LastIndexByte(b, ')')+1:])
	return len(rest) > 0 && rest[0] != 'Z' && rest[0] != 'X'
}
