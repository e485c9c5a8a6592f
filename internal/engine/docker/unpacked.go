package docker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The daemon hands a checkpoint to its containerd, which unpacks it into a temporary directory for the runtime, and leaves it there
// for ever (containerd, plugins/services/tasks/local.go). Nothing but what is in it tells whose it is.
const (
	unpackedPattern = "ctrd-checkpoint*"
	markFile        = "migrate-container" // in the image set: the container's id
)

// markCheckpoint makes an image set known as the container's.
func markCheckpoint(dir, id string) error {
	if err := os.WriteFile(filepath.Join(dir, markFile), []byte(id), 0o600); err != nil {
		return fmt.Errorf("mark the checkpoint: %w", err)
	}
	return nil
}

// unpackedDirs are where containerd makes temporary directories: as a service, or as a child of the daemon, which has its own.
func (e *Engine) unpackedDirs() []string { return []string{"/tmp", filepath.Join(e.root, "tmp")} }

// removeUnpacked removes copies of the container's checkpoint from directories of temporary files, if those exist.
func removeUnpacked(dirs []string, id string) error {
	var errs []error
	for _, dir := range dirs {
		copies, err := filepath.Glob(filepath.Join(dir, unpackedPattern))
		if err != nil {
			return err
		}
		for _, c := range copies {
			if !unpackedFor(c, id) {
				continue
			}
			if err := os.RemoveAll(c); err != nil {
				errs = append(errs, fmt.Errorf("remove a copy of the checkpoint: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// unpackedFor looks into nothing that others may have made: directories of temporary files are everybody's.
func unpackedFor(dir, id string) bool {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return false
	}
	mark, err := os.ReadFile(filepath.Join(dir, markFile))
	return err == nil && string(mark) == id
}
