package docker

import (
	"errors"
	"slices"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"migrate/internal/engine"
)

// What is not there yet when the container is made is bound in the way in which the daemon looks for it only when it starts it.
func TestBindLater(t *testing.T) {
	dir := t.TempDir()
	bind := func(source string, readOnly bool) mount.Mount {
		return mount.Mount{Type: mount.TypeBind, Source: source, Target: "/at", ReadOnly: readOnly, BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}}
	}
	volume := mount.Mount{Type: mount.TypeVolume, Source: "name", Target: "/volume"}
	h := &container.HostConfig{Mounts: []mount.Mount{bind(dir, false), bind(dir+"/file", true), volume, bind(dir+"/other", false)}}
	if err := bindLater(h); err != nil {
		t.Fatal(err)
	}
	if want := []string{dir + "/file:/at:rprivate,ro", dir + "/other:/at:rprivate"}; !slices.Equal(h.Binds, want) {
		t.Errorf("bound later are %q, want %q", h.Binds, want)
	}
	if len(h.Mounts) != 2 || h.Mounts[0].Source != dir || h.Mounts[1].Source != "name" {
		t.Errorf("mounts are %+v", h.Mounts)
	}
	h.Mounts = []mount.Mount{bind(dir+"/a:b", false)}
	if err := bindLater(h); !errors.Is(err, engine.ErrUnsupported) {
		t.Errorf("a path with a colon: %v", err)
	}
}
