package layers

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// remove removes a path and all below it. It must exist.
func (a *applier) remove(path string) error {
	a.t.forget()
	dir, name, err := a.t.parent(path)
	if err != nil {
		return based(err)
	}
	err = unix.Unlinkat(int(dir.Fd()), name, 0)
	if errors.Is(err, unix.EISDIR) {
		return a.removeDir(path)
	}
	if err != nil {
		return based(fmt.Errorf("remove: %w", err))
	}
	return nil
}

// removeDir removes a directory. It holds no descriptor while it descends, so
// that depth costs none.
func (a *applier) removeDir(path string) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	subdirs, err := a.emptyDir(path)
	if err != nil {
		return err
	}
	for _, name := range subdirs {
		if err := a.removeDir(joinPath(path, name)); err != nil {
			return err
		}
	}
	parent, name := splitPath(path)
	dir, err := a.t.openDir(parent)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove directory %q: %w", path, err)
	}
	return nil
}

// emptyDir removes what is in a directory but its directories, and returns those.
func (a *applier) emptyDir(path string) ([]string, error) {
	dir, err := a.t.openDir(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var subdirs []string
	for _, name := range names {
		err := unix.Unlinkat(int(dir.Fd()), name, 0)
		if errors.Is(err, unix.EISDIR) {
			subdirs = append(subdirs, name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("remove %q: %w", joinPath(path, name), err)
		}
	}
	return subdirs, nil
}

// putAside moves a file to a name in the upper directory that no stream can
// guess, until an ENTRY takes it.
func (a *applier) putAside(rec *record) error {
	if len(a.slots) >= maxSlots {
		return &LimitError{What: "slots", Limit: maxSlots, Got: maxSlots + 1}
	}
	if _, ok := a.slots[rec.slot]; ok {
		return a.dec.bad("slot used twice")
	}
	dir, name, err := a.t.parent(rec.path)
	if err != nil {
		return based(err)
	}
	if err := expect(dir, name, unix.S_IFREG); err != nil {
		return err
	}
	aside := a.stash + strconv.Itoa(int(rec.slot))
	if err := unix.Renameat(int(dir.Fd()), name, int(a.t.root.Fd()), aside); err != nil {
		return fmt.Errorf("put aside: %w", err)
	}
	a.slots[rec.slot] = aside
	return nil
}

// takeSlot gives a file that was put aside its new name.
func (a *applier) takeSlot(dir *os.File, name string, slot uint32) error {
	aside, ok := a.slots[slot]
	if !ok {
		return a.dec.bad("no such slot")
	}
	err := unix.Renameat2(int(a.t.root.Fd()), aside, int(dir.Fd()), name, unix.RENAME_NOREPLACE)
	if err != nil {
		return based(fmt.Errorf("take from slot: %w", err))
	}
	delete(a.slots, slot)
	a.stats.Moved++
	return nil
}

// dropSlots removes the files that were put aside and not taken: their new name
// vanished before the source came to it.
func (a *applier) dropSlots() error {
	for slot, aside := range a.slots {
		if err := unix.Unlinkat(int(a.t.root.Fd()), aside, 0); err != nil {
			return fmt.Errorf("remove file put aside: %w", err)
		}
		delete(a.slots, slot)
	}
	return nil
}

// abandon releases what an error has left open.
func (a *applier) abandon() {
	if a.file != nil {
		a.file.f.Close()
	}
	_ = a.dropSlots() // the directory is to be discarded, the first error counts
}
