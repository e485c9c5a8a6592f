package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Dir is a control group's directory.
type Dir struct {
	Path    string
	Unified bool // of version 2, where all controllers share it
}

// ErrNone says that the controller asked for is not mounted.
var ErrNone = errors.New("no such cgroup is mounted")

// Find returns the control group that a process is in, by the controller's name: that of version 1 where there is one, else
// the unified one. Whether that has the controller's files is not looked at.
func Find(pid int, controller string) (Dir, error) {
	cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return Dir{}, fmt.Errorf("find the cgroup of process %d: %w", pid, err)
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return Dir{}, fmt.Errorf("find the cgroup mounts: %w", err)
	}
	d, err := find(string(cgroups), string(mounts), controller)
	if err != nil {
		return Dir{}, fmt.Errorf("find the %s cgroup of process %d: %w", controller, pid, err)
	}
	return d, nil
}

// find joins a process's cgroup with where its hierarchy is mounted (cgroups(7), proc_pid_mountinfo(5)).
func find(cgroups, mounts, controller string) (Dir, error) {
	v1, v2 := places(cgroups, controller)
	var unified Dir
	for line := range strings.Lines(mounts) {
		m, ok := parseMount(line)
		switch {
		case !ok:
		case m.kind == "cgroup" && v1 != "" && has(m.options, controller):
			return Dir{Path: filepath.Join(m.at, below(m.root, v1))}, nil
		case m.kind == "cgroup2" && v2 != "" && unified.Path == "":
			unified = Dir{Path: filepath.Join(m.at, below(m.root, v2)), Unified: true}
		}
	}
	if unified.Path == "" {
		return Dir{}, ErrNone
	}
	return unified, nil
}

// places reads where a process is in the hierarchy of a controller of version 1, and in the unified one.
func places(cgroups, controller string) (v1, v2 string) {
	for line := range strings.Lines(cgroups) {
		id, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		switch {
		case !ok:
		case id == "0" && controllers == "":
			v2 = path
		case has(controllers, controller):
			v1 = path
		}
	}
	return v1, v2
}

// mount is a line of mountinfo.
type mount struct{ root, at, kind, options string }

func parseMount(line string) (mount, bool) {
	f := strings.Fields(line)
	dash := slices.Index(f, "-")
	if dash < 6 || len(f) < dash+4 {
		return mount{}, false
	}
	return mount{root: f[3], at: f[4], kind: f[dash+1], options: f[dash+3]}, true
}

func has(list, word string) bool { return slices.Contains(strings.Split(list, ","), word) }

// below is path as seen from a mount whose root is root.
func below(root, path string) string {
	if rest, ok := strings.CutPrefix(path, root); ok && root != "/" {
		return rest
	}
	return path
}
