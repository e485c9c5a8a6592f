package layers

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// setMetadata gives an entry its owner, mode, attributes and mtime, in this
// order: chown clears setuid and file capabilities, and an ACL that a parent's
// default ACL has handed down must be gone before it is compared.
func (a *applier) setMetadata(dir *os.File, name string, e *entry) error {
	fd := int(dir.Fd())
	if err := unix.Fchownat(fd, name, int(e.uid), int(e.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if e.kind != kindSymlink {
		if err := unix.Fchmodat(fd, name, e.mode, 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	if err := a.setAttrs(procName(dir, name), &e.attrs); err != nil {
		return err
	}
	return setTime(dir, name, e.mtime)
}

// setAttrs makes the carried attributes of an entry those of the stream, and
// removes all others that Apply owns.
func (a *applier) setAttrs(path string, want *attrs) error {
	have, err := a.xattrs.list(path)
	if err != nil {
		return err
	}
	all := want.all()
	for _, name := range have {
		if !managedName(name) || contains(all, name) {
			continue
		}
		if err := unix.Lremovexattr(path, name); err != nil {
			return fmt.Errorf("remove attribute %s: %w", name, err)
		}
	}
	for _, x := range all {
		if err := unix.Lsetxattr(path, x.name, []byte(x.value), 0); err != nil {
			return fmt.Errorf("set attribute %s: %w", x.name, err)
		}
	}
	return nil
}

func contains(all []plainAttr, name string) bool {
	for _, x := range all {
		if x.name == name {
			return true
		}
	}
	return false
}

// setTime sets the mtime and leaves the atime.
func setTime(dir *os.File, name string, mtime stamp) error {
	ts := []unix.Timespec{
		{Nsec: unix.UTIME_OMIT},
		{Sec: mtime.sec, Nsec: int64(mtime.nsec)},
	}
	if err := unix.UtimesNanoAt(int(dir.Fd()), name, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}
