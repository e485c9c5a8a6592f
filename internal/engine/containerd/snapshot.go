package containerd

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
)

func (e *Engine) snapshotter(name string) snapshots.Snapshotter {
	return e.client.SnapshotService(name)
}

// emptied removes what is in a directory.
func emptied(dir string) error {
	names, err := os.ReadDir(dir)
	errs := []error{err}
	for _, n := range names {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, n.Name())))
	}
	return errors.Join(errs...)
}
