package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pollInterval is how often a group is looked at until it is empty.
const pollInterval = 10 * time.Millisecond

// Processes lists the processes in the tree.
func (t *Tree) Processes() []int {
	seen := map[int]bool{}
	for _, group := range t.groups() {
		procs, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if err != nil {
			continue // the group vanished
		}
		for field := range strings.FieldsSeq(string(procs)) {
			// 0 stands for a process outside this pid namespace.
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				seen[pid] = true
			}
		}
	}
	pids := make([]int, 0, len(seen))
	for pid := range seen {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}

// Kill ends all processes in the tree and returns when they are gone.
func (t *Tree) Kill(ctx context.Context) error {
	for {
		pids := t.Processes()
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		// A process in a frozen version 1 group takes the signal when thawed.
		for _, group := range t.groups() {
			_ = write(filepath.Join(group, "freezer.state"), "THAWED")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v in cgroup %s do not end: %w", pids, t.Path, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}

// Remove takes the directories of the tree away. It is no error if there are none.
func (t *Tree) Remove(ctx context.Context) error {
	for {
		var left error
		groups := t.groups()
		for _, group := range slices.Backward(groups) {
			if err := os.Remove(group); err != nil && !errors.Is(err, fs.ErrNotExist) {
				left = err
			}
		}
		if left == nil {
			return nil
		}
		// The kernel may take a moment to let go of a group whose last process ended.
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", t.Path, left)
		case <-time.After(pollInterval):
		}
	}
}
