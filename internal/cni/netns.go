package cni

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"migrate/internal/network"
	"migrate/internal/thread"
)

// NewNamespace makes an empty network namespace, loopback up, and binds it at path, where it stays until
// RemoveNamespace. ErrInUse says that the path is one already; a stale file there is used.
func NewNamespace(path string) error {
	if err := CheckPathFree(path); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory of network namespace: %w", err)
	}
	if dir == ipDir || dir == "/var"+ipDir {
		if err := shareDir(ipDir); err != nil {
			return fmt.Errorf("prepare %s: %w", ipDir, err)
		}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return fmt.Errorf("make file of network namespace: %w", err)
	}
	f.Close()
	err = thread.Run(func() error { return bindFresh(path) })
	if err != nil {
		return errors.Join(err, RemoveNamespace(path))
	}
	return nil
}

// ipDir is where ip(8) keeps its namespaces.
const ipDir = "/run/netns"

// shareDir makes the directory a mount that is shared, as the first `ip netns add` does (iproute2, ip/ipnetns.c). Should
// that come after a namespace was bound here, it would cover the namespace with a copy, and the file could not be
// removed any more.
func shareDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil { // ip takes this lock too
		return fmt.Errorf("lock: %w", err)
	}
	err = unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) { // which says that it is no mount
		return err
	}
	if err := unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount on itself: %w", err)
	}
	return unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
}

func bindFresh(path string) error {
	if err := unshareNet(); err != nil {
		return err
	}
	own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind network namespace at %s: %w", path, err)
	}
	return loopbackUp()
}

// RemoveNamespace takes the namespace and its file away. It is not an error that there is none.
func RemoveNamespace(path string) error {
	for range 8 { // a path may have been mounted over
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace %s: %w", path, err)
	}
	return nil
}

// CheckPathFree returns ErrInUse when a namespace, or anything but an empty file, is at path.
func CheckPathFree(path string) error {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return fmt.Errorf("look at network namespace %s: %w", path, err)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("network namespace %s is %w: something else than a namespace file is there; remove it", path, ErrInUse)
	case IsNamespace(path):
		return fmt.Errorf("network namespace %s is %w: remove it with `ip netns delete %s` if nothing uses it",
			path, ErrInUse, filepath.Base(path))
	case st.Size != 0:
		return fmt.Errorf("network namespace %s is %w: a file with content is there; remove it", path, ErrInUse)
	}
	return nil
}

// IsNamespace says whether a namespace is bound at path.
func IsNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

func unshareNet() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	return nil
}

// LoopbackUp brings loopback up in the namespace at path.
func LoopbackUp(path string) error { return network.Do(path, loopbackUp) }

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}
