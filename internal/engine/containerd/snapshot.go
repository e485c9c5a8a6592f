package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"

	"migrate/internal/engine"
)

func (e *Engine) snapshotter(name string) snapshots.Snapshotter {
	return e.client.SnapshotService(name)
}

// upperDir finds the RW layer among a snapshot's mounts.
func upperDir(snapshotter string, mounts []mount.Mount) (string, error) {
	for _, m := range mounts {
		if m.Type != "overlay" {
			continue
		}
		for _, option := range m.Options {
			if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
				return dir, nil
			}
		}
	}
	// An image without layers has nothing to lie over: the overlay snapshotter then binds the upper directory itself.
	// The native one always binds a directory, which holds the container's whole root file system.
	if len(mounts) == 1 && mounts[0].Type == "bind" && (overlays(snapshotter) || snapshotter == native) {
		return mounts[0].Source, nil
	}
	return "", unfit(snapshotter)
}

// native is the snapshotter that copies the image's files for each container. What a container changed cannot be told from the
// image's own then, so that all of it counts as the RW layer.
const native = "native"

func overlays(snapshotter string) bool { return strings.HasPrefix(snapshotter, "overlay") }

func unfit(snapshotter string) error {
	return fmt.Errorf("snapshotter %q: %w: it keeps what a container changes neither in an overlay's upper directory nor in a directory of its own; "+
		"make the container with overlayfs or native", snapshotter, engine.ErrUnsupported)
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
