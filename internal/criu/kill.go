package criu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// KillUsers ends every process that was started with dir, or a path below it, among its arguments, and all that descend
// from them. For a stage these are the runtime that restores from it, CRIU, the hook, and what CRIU has restored so far. It
// is for a restore that does not end by itself.
func KillUsers(dir string) error {
	parents, users, err := processes(dir)
	if err != nil {
		return fmt.Errorf("look for processes that use %s: %w", dir, err)
	}
	doomed := map[int]bool{}
	for _, pid := range users {
		doomed[pid] = true
	}
	for grew := true; grew; {
		grew = false
		for pid, parent := range parents {
			if doomed[parent] && !doomed[pid] {
				doomed[pid], grew = true, true
			}
		}
	}
	var errs []error
	for pid := range doomed {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("kill %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// processes lists all processes with their parents, and those that name dir. This process and its ancestors are left out
// of both: an agent names its own directories too.
func processes(dir string) (parents map[int]int, users []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, nil, err
	}
	parents = map[int]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, ok := parentOf(pid); ok {
			parents[pid] = parent
		}
	}
	for pid := os.Getpid(); pid > 0; {
		next := parents[pid]
		delete(parents, pid)
		pid = next
	}
	for pid := range parents {
		if names(pid, dir) {
			users = append(users, pid)
		}
	}
	return parents, users, nil
}

// parentOf reads the fourth field of /proc/PID/stat; the second, in parentheses, may hold anything (proc(5)).
func parentOf(pid int) (int, bool) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}

func names(pid int, dir string) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	for _, arg := range strings.Split(string(b), "\x00") {
		if arg == dir || strings.HasPrefix(arg, dir+"/") {
			return true
		}
	}
	return false
}
