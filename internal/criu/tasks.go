package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// KillAll sends SIGKILL to every task of the cgroup and those below. Frozen tasks die when they are thawed, without
// running anything before. After an error some may be left that would run on: they must stay frozen.
func (f *Freezer) KillAll() error {
	pids, err := f.Tasks()
	errs := []error{err}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("kill %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// Tasks lists the processes of the cgroup and those below it; none once it has been removed. What cannot be looked into may
// have any number of them, and is an error, along with those that were found: whoever took it for empty would
// let a container run on that runs elsewhere too.
func (f *Freezer) Tasks() ([]int, error) {
	if f.path == "" {
		return nil, nil
	}
	top := filepath.Dir(f.path)
	var pids []int
	var errs []error
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error { // its errors are in errs
		if err == nil && d.IsDir() {
			var found []int
			found, err = procsOf(path)
			pids = append(pids, found...)
		}
		if errors.Is(err, unix.EOPNOTSUPP) && path != top {
			return nil // a threaded cgroup: its processes are listed further up, see cgroups(7)
		}
		if err != nil && !(vanished(err) && removed(path)) {
			errs = append(errs, err)
		}
		return nil
	})
	if len(errs) > 0 {
		return pids, fmt.Errorf("list the tasks of cgroup %s: %w", top, errors.Join(errs...))
	}
	return pids, nil
}

func procsOf(cgroup string) (pids []int, err error) {
	b, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	for _, s := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(s); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// vanished tells the errors that a cgroup gives which is removed while we look.
func vanished(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// removed tells whether there is no such cgroup, which then has no tasks: the kernel removes none that has. The
// hierarchy it was in has to be there still, because a path that leads out of it says nothing.
func removed(cgroup string) bool {
	if _, err := os.Lstat(cgroup); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	for dir := filepath.Dir(cgroup); ; dir = filepath.Dir(dir) {
		var at unix.Statfs_t
		switch err := unix.Statfs(dir, &at); {
		case err == nil:
			return at.Type == unix.CGROUP_SUPER_MAGIC || at.Type == unix.CGROUP2_SUPER_MAGIC
		case !errors.Is(err, unix.ENOENT) || dir == filepath.Dir(dir):
			return false
		}
	}
}
