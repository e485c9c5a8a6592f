package child

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"migrate/testbed/internal/cgroup"
)

// A fsMount is a file system mounted in a host; the target is below its root.
type fsMount struct {
	kind, target string
	flags        uintptr
	data         string
}

const nodevsuid = unix.MS_NOSUID | unix.MS_NODEV

var fsMounts = []fsMount{
	{"proc", "proc", nodevsuid | unix.MS_NOEXEC, ""},
	{"sysfs", "sys", nodevsuid | unix.MS_NOEXEC, ""},
	{"tmpfs", "dev", unix.MS_NOSUID, "mode=755"},
	{"devpts", "dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5"},
	{"tmpfs", "dev/shm", nodevsuid, "mode=1777"},
	{"mqueue", "dev/mqueue", nodevsuid | unix.MS_NOEXEC, ""},
	{"tmpfs", "run", nodevsuid, "mode=755"},
	{"tmpfs", "tmp", nodevsuid, "mode=1777"},
}

// mountAll makes the host's root with all that is mounted in it, and moves in.
func mountAll(config Config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep the host's mounts to itself: %w", err)
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", config.Lower, config.Upper, config.Work)
	if err := unix.Mount("overlay", config.Root, "overlay", 0, data); err != nil {
		return fmt.Errorf("mount the host's root: %w (its directory must be on a file system such as ext4 or xfs: MIGRATE_TESTBED_DIR names another place)", err)
	}
	for _, m := range fsMounts {
		if err := m.mount(config.Root); err != nil {
			return err
		}
	}
	if err := makeDevices(filepath.Join(config.Root, "dev")); err != nil {
		return err
	}
	for _, b := range config.Binds {
		if err := b.mount(config.Root); err != nil {
			return err
		}
	}
	if err := mountCgroups(config); err != nil {
		return err
	}
	return moveInto(config.Root)
}

func (m fsMount) mount(root string) error {
	target := filepath.Join(root, m.target)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	if err := unix.Mount(m.kind, target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on /%s: %w", m.kind, m.target, err)
	}
	return nil
}

func (b Bind) mount(root string) error {
	target := filepath.Join(root, b.To)
	info, err := os.Stat(b.From)
	if err != nil {
		return fmt.Errorf("show %s in the host: %w", b.From, err)
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		err = touch(target)
	}
	if err != nil {
		return fmt.Errorf("show %s in the host: %w", b.From, err)
	}
	if err := unix.Mount(b.From, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("show %s in the host: %w", b.From, err)
	}
	return nil
}

func touch(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// moveInto makes root the root, as pivot_root(2) shows under "pivot_root(".", ".")".
func moveInto(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter the host's root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change to the host's root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the machine's root: %w", err)
	}
	return unix.Chdir("/")
}

// mountCgroups shows the host its part of the machine's hierarchies, at the
// places where the machine has them.
func mountCgroups(config Config) error {
	mounted, err := cgroup.Mounted()
	if err != nil {
		return err
	}
	if config.Cgroup2 || (len(mounted) == 1 && mounted[0].V2) {
		return mountCgroup2(filepath.Join(config.Root, cgroup.Root))
	}
	base := fsMount{"tmpfs", cgroup.Root, nodevsuid | unix.MS_NOEXEC, "mode=755"}
	if err := base.mount(config.Root); err != nil {
		return err
	}
	for _, h := range mounted {
		if h.V2 {
			err = mountCgroup2(filepath.Join(config.Root, h.Mount))
		} else {
			err = fsMount{"cgroup", h.Mount, nodevsuid | unix.MS_NOEXEC, h.Data}.mount(config.Root)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mountCgroup2 also moves this process to the leaf, so that the controllers can be
// handed to the groups beside it.
func mountCgroup2(target string) error {
	if err := (fsMount{"cgroup2", target, nodevsuid | unix.MS_NOEXEC, ""}).mount("/"); err != nil {
		return err
	}
	leaf := filepath.Join(target, cgroup.Leaf)
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return fmt.Errorf("make the group of the host's own processes: %w", err)
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("join the group of the host's own processes: %w", err)
	}
	cgroup.Delegate(target)
	return nil
}
