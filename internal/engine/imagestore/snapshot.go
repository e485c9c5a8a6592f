package imagestore

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"

	"migrate/internal/engine"
)

// Native is the snapshotter that copies the image's files for each container. What a container changed cannot be told from the
// image's own then, so that all of it counts as the RW layer.
const Native = "native"

// UpperDir finds the RW layer among a snapshot's mounts.
func UpperDir(snapshotter string, mounts []mount.Mount) (string, error) {
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
	if len(mounts) == 1 && mounts[0].Type == "bind" && Separate(snapshotter) {
		return mounts[0].Source, nil
	}
	return "", Unfit(snapshotter)
}

// Unfit is the refusal of a snapshotter that is not Separate.
func Unfit(snapshotter string) error {
	return fmt.Errorf("snapshotter %q: %w: it keeps what a container changes neither in an overlay's upper directory nor in a directory of its own; "+
		"make the container with overlayfs or native", snapshotter, engine.ErrUnsupported)
}

// Separate says whether a snapshotter keeps what a container changes in a directory that can be found.
func Separate(snapshotter string) bool { return overlays(snapshotter) || snapshotter == Native }

func overlays(snapshotter string) bool { return strings.HasPrefix(snapshotter, "overlay") }
