package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A lazy dump has no use for the pages that CRIU writes: private memory that it does not leave in place is little and read from the tasks
// once they are held, and shared memory has been copied while the container ran, all but what was written last. So CRIU is made to write
// pages nowhere, which saves it the copying, and this host the memory: the files that it opens for them are links to the null device.
//
// CRIU numbers these files in the order in which it comes to them, so the links are there for as many as there may be. Beyond, it would make
// files, whose content is not looked at either. The links lead to a mount of the null device in the stage, since CRIU may be in the container's mount
// namespace when it opens one, where /dev/null is whatever the container has put there.

// nowhere is the null device's name, beside the image set's directory.
const nowhere = "nowhere"

// Links in excess of those that the tasks need: for shared memory, and tasks that come until the freeze.
const (
	spareLinks   = 1024
	linksPerTask = 4
)

// discardPages makes the links. The mount goes with the stage.
func (d *DumpRequest) discardPages() error {
	null := filepath.Join(filepath.Dir(d.ImageDir), nowhere)
	if err := os.WriteFile(null, nil, 0o600); err != nil {
		return fmt.Errorf("make a place for pages that nobody wants: %w", err)
	}
	if err := unix.Mount("/dev/null", null, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the null device: %w", err)
	}
	tasks, _ := NewFreezer(d.Freezer).Tasks() // only for their number; what cannot be listed is told later
	n := spareLinks + linksPerTask*len(tasks)
	for i := 1; i <= n; i++ {
		if err := os.Symlink(filepath.Join("..", nowhere), d.pagesPath(i)); err != nil {
			return fmt.Errorf("make a place for pages that nobody wants: %w", err)
		}
	}
	return nil
}

func (d *DumpRequest) pagesPath(i int) string {
	return filepath.Join(d.ImageDir, "pages-"+strconv.Itoa(i)+".img")
}

// removeLinks leaves the files that are no links.
func (d *DumpRequest) removeLinks() error {
	entries, err := os.ReadDir(d.ImageDir)
	if err != nil {
		return fmt.Errorf("list the image set: %w", err)
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 || !pagesFile.MatchString(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(d.ImageDir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("take the place for pages away: %w", err)
		}
	}
	return nil
}
