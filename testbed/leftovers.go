package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"migrate/testbed/internal/cgroup"
	"migrate/testbed/internal/child"
)

// Leftovers tells what of a testbed exists: processes, cgroups, mounts and files.
// After [Down] there is nothing.
func Leftovers(name string) ([]string, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	at := place{name}
	tree, err := cgroup.At(at.cgroup())
	if err != nil {
		return nil, err
	}
	var left []string
	for _, pid := range append(tree.Processes(), strays(at)...) {
		left = append(left, fmt.Sprintf("process %d", pid))
	}
	for _, dir := range tree.Exists() {
		left = append(left, "cgroup "+dir)
	}
	mounts, err := mountsBelow(at.data(), at.run())
	if err != nil {
		return nil, err
	}
	left = append(left, mounts...)
	for _, dir := range []string{at.data(), at.run()} {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			left = append(left, "directory "+dir)
		}
	}
	return left, nil
}

func mountsBelow(dirs ...string) ([]string, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(mountinfo)) {
		fields := strings.Fields(line)
		for _, dir := range dirs {
			if len(fields) > 4 && strings.HasPrefix(fields[4]+"/", dir+"/") {
				found = append(found, "mount "+fields[4])
			}
		}
	}
	return found, nil
}

// strays are processes of the testbed that its cgroup does not have: a program
// that is killed between starting a process and moving it there leaves one.
func strays(at place) []int {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	var found []int
	for _, name := range names {
		cmdline, err := os.ReadFile(name)
		if err != nil || !child.BelongsTo(bytes.Split(cmdline, []byte{0}), at.cgroup()) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err == nil && lives(pid) {
			found = append(found, pid)
		}
	}
	return found
}

// lives tells a process from one that has ended and waits for its parent.
func lives(pid int) bool {
	_, err := startTime(pid)
	return err == nil
}

func killStrays(ctx context.Context, at place) error {
	for {
		pids := strays(at)
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("processes %v do not end: %w", pids, err)
		}
	}
}
