package docker

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestRemoveUnpacked leaves what is of other containers, or may be written to by others.
func TestRemoveUnpacked(t *testing.T) {
	tmp := t.TempDir()
	made := map[string]bool{} // directory → stays
	for _, d := range []struct {
		name, mark string
		mode       os.FileMode
		stays      bool
	}{
		{"ctrd-checkpoint1", "mine", 0o700, false},
		{"ctrd-checkpoint2", "theirs", 0o700, true},
		{"ctrd-checkpoint3", "", 0o700, true},
		{"ctrd-checkpoint4", "mine", 0o777, true},
		{"other", "mine", 0o700, true},
	} {
		dir := filepath.Join(tmp, d.name)
		err := errors.Join(os.Mkdir(dir, d.mode), os.Chmod(dir, d.mode))
		if made[dir] = d.stays; d.mark != "" {
			err = errors.Join(err, markCheckpoint(dir, d.mark))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // it may be repeated
		if err := removeUnpacked([]string{filepath.Join(tmp, "missing"), tmp}, "mine"); err != nil {
			t.Error(err)
		}
	}
	for dir, stays := range made {
		if _, err := os.Stat(dir); (err == nil) != stays {
			t.Errorf("%s: %v", filepath.Base(dir), err)
		}
	}
}
