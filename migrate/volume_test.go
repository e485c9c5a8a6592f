package migrate

import (
	"slices"
	"testing"

	"migrate/internal/storage"
)

// What the container maps is found in the volume that it lies in.
func TestPathsInAVolume(t *testing.T) {
	mapped := []string{"dev/shm/x", "dev/shmem", "data/a/b", "data", "run/sub/y", "etc/app.conf", "var/lib/z"}
	for name, c := range map[string]struct {
		v    volume
		want []string
	}{
		"directory": {volume{Tree: storage.Tree{Real: "/data", Volume: storage.Volume{How: storage.Copied}}}, []string{"/a/b", "/"}},
		"file":      {volume{only: "theirs", Tree: storage.Tree{Real: "/etc/app.conf", Volume: storage.Volume{How: storage.Copied}}}, []string{"theirs"}},
		"tmpfs": {volume{Tree: storage.Tree{Volume: storage.Volume{How: storage.Memory, Tmpfs: &storage.Tmpfs{
			Places: []storage.At{{Mount: "/dev/shm", Root: "/"}, {Mount: "/run", Root: "/part"}}}}}}, []string{"/x", "/part/sub/y"}},
	} {
		if got := c.v.paths(mapped); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
