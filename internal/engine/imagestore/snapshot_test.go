package imagestore

import (
	"errors"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"

	"migrate/internal/engine"
)

func TestUpperDir(t *testing.T) {
	overlay := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{"workdir=/s/1/work", "upperdir=/s/1/fs", "lowerdir=/s/0/fs"}}
	bind := mount.Mount{Type: "bind", Source: "/s/1/fs", Options: []string{"rw", "rbind"}}
	for _, test := range []struct {
		snapshotter string
		mounts      []mount.Mount
		want        string
	}{
		{"overlayfs", []mount.Mount{overlay}, "/s/1/fs"}, {"overlayfs", []mount.Mount{bind}, "/s/1/fs"},
		{"native", []mount.Mount{bind}, "/s/1/fs"}, {"devmapper", []mount.Mount{{Type: "ext4", Source: "/dev/mapper/x"}}, ""}, {"btrfs", []mount.Mount{bind}, ""}, {"overlayfs", nil, ""},
	} {
		got, err := UpperDir(test.snapshotter, test.mounts)
		if got != test.want || (err != nil) != (test.want == "") || err != nil && !errors.Is(err, engine.ErrUnsupported) {
			t.Errorf("UpperDir(%s, %v) = %q, %v", test.snapshotter, test.mounts, got, err)
		}
	}
}
