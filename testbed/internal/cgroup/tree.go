package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Leaf is the group below a host's root group that takes its processes in
// version 2, where a group with children that have controllers must be empty.
const Leaf = "init"

// A Tree is the same path in every hierarchy of the machine.
type Tree struct {
	Path string // relative to each hierarchy's mount: "migrate-testbed-mt/a"

	hierarchies []Hierarchy
}

// At returns the tree at path. Nothing is created.
func At(path string) (*Tree, error) {
	mounted, err := Mounted()
	if err != nil {
		return nil, err
	}
	return &Tree{Path: path, hierarchies: mounted}, nil
}

// Create makes the group in every hierarchy.
func (t *Tree) Create() error {
	for _, h := range t.hierarchies {
		if err := create(h, t.Path); err != nil {
			return fmt.Errorf("create cgroup %s in %s: %w", t.Path, h.Mount, err)
		}
	}
	return nil
}

// create makes the group level by level, because a level decides what the next
// one may use: controllers in version 2, processors and nodes in version 1.
func create(h Hierarchy, path string) error {
	dir := h.Mount
	for part := range strings.SplitSeq(path, "/") {
		if h.V2 {
			Delegate(dir)
		}
		parent := dir
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := inheritCPUSet(parent, dir); err != nil {
			return err
		}
	}
	return nil
}

// Delegate lets the children of a version 2 group use all its controllers. It
// does what it can: a controller that the machine keeps back only means that
// limits of that kind are not available to a host.
func Delegate(dir string) {
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for name := range strings.FieldsSeq(string(controllers)) {
		_ = write(filepath.Join(dir, "cgroup.subtree_control"), "+"+name)
	}
}

// inheritCPUSet fills what a new version 1 cpuset group leaves empty; no process
// can join it before.
func inheritCPUSet(parent, dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) || strings.TrimSpace(string(own)) != "" {
			continue
		}
		value, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil {
			return err
		}
		if err := write(filepath.Join(dir, name), strings.TrimSpace(string(value))); err != nil {
			return err
		}
	}
	return nil
}

// Join moves a process into the group; pid 0 is the caller. In version 2 it goes
// to the leaf if there is one.
func (t *Tree) Join(pid int) error {
	for _, h := range t.hierarchies {
		dir := filepath.Join(h.Mount, t.Path)
		if leaf := filepath.Join(dir, Leaf); h.V2 && isDir(leaf) {
			dir = leaf
		}
		if err := write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("move process %d into cgroup %s: %w", pid, dir, err)
		}
	}
	return nil
}

// Exists lists the directories of the tree that exist.
func (t *Tree) Exists() []string {
	var found []string
	for _, h := range t.hierarchies {
		if dir := filepath.Join(h.Mount, t.Path); isDir(dir) {
			found = append(found, dir)
		}
	}
	return found
}

// groups lists all groups of the tree, parents first.
func (t *Tree) groups() []string {
	var groups []string
	for _, dir := range t.Exists() {
		// Groups may vanish during the walk, with the containers that own them.
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, path)
			}
			return nil
		})
	}
	return groups
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// write writes a control file in one system call, as the kernel wants it.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
