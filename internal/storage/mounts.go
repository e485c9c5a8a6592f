package storage

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"migrate/internal/thread"
)

// Mounts lists what is mounted in a process's mount namespace, in the order of its mountinfo, as seen from its root.
func Mounts(pid int) ([]*mountinfo.Info, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, fmt.Errorf("read the mounts of process %d: %w", pid, err)
	}
	defer f.Close()
	all, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, fmt.Errorf("read the mounts of process %d: %w", pid, err)
	}
	return all, nil
}

// View opens what a process has mounted at a path, without what is mounted below it; dev is its device, so that nothing else is
// taken for it. The descriptor is a mount of its own that nothing else shows, and lives as long as it is open; the caller closes
// it.
func View(pid int, path string, dev uint64) (*os.File, error) {
	fd := -1
	err := thread.Run(func() (err error) {
		fd, err = cloneMount(pid, path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look at %s of process %d: %w", path, pid, err)
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Dev != dev {
		err = fmt.Errorf("device %d:%d is there, not %d:%d", unix.Major(st.Dev), unix.Minor(st.Dev), unix.Major(dev), unix.Minor(dev))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("look at %s of process %d: %w", path, pid, err)
	}
	return f, nil
}

// cloneMount works in the process's mount namespace, since only mounts of one's own can be cloned.
func cloneMount(pid int, path string) (int, error) {
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open its mount namespace: %w", err)
	}
	defer unix.Close(ns)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return -1, fmt.Errorf("leave the threads' common root: %w", err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil { // the root is the namespace's from here on
		return -1, fmt.Errorf("enter its mount namespace: %w", err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, fmt.Errorf("clone the mount: %w", err)
	}
	return fd, nil
}

// PathOf names an open directory for calls that take a path.
func PathOf(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// Beneath gives the rest of a path below a directory, and whether it lies there. Both are clean and absolute.
func Beneath(path, dir string) (rest string, ok bool) {
	rel, err := filepath.Rel(dir, path)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return rel, true
}

// typeOf says what kind of thing a path is, links followed.
func typeOf(path string) (Type, unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", st, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return Dir, st, nil
	case unix.S_IFREG:
		return File, st, nil
	case unix.S_IFSOCK:
		return Socket, st, nil
	case unix.S_IFIFO:
		return FIFO, st, nil
	}
	return Device, st, nil
}

// TypeOf says what kind of thing a path of this host is, links followed.
func TypeOf(path string) (Type, error) {
	t, _, err := typeOf(path)
	return t, err
}
