package criu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// cgroupDir makes a cgroup, and returns it with the name of its freezer's state file.
func cgroupDir(t *testing.T) (dir, state string) {
	t.Helper()
	root, state := "/sys/fs/cgroup/freezer", "freezer.state"
	if _, err := os.Stat(root); err != nil {
		root, state = "/sys/fs/cgroup", "cgroup.freeze"
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
	dir, err := os.MkdirTemp(root, "migrate-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) }) // it may be gone
	return dir, state
}

// A cgroup that was removed has no tasks; that a path leads nowhere says nothing.
func TestTasksOfWhatIsGone(t *testing.T) {
	dir, state := cgroupDir(t)
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{below, dir} {
		f := NewFreezer(filepath.Join(gone, state))
		for _, when := range []string{"before", "after"} {
			if pids, err := f.Tasks(); len(pids) > 0 || err != nil {
				t.Errorf("%s %s it was removed: %v, %v", gone, when, pids, err)
			}
			_ = os.Remove(gone)
		}
		if err := f.KillAll(); err != nil {
			t.Error(err)
		}
	}
	if pids, err := NewFreezer(filepath.Join(below, state)).Tasks(); len(pids) > 0 || err != nil {
		t.Errorf("with the one above it removed as well: %v, %v", pids, err)
	}
	for _, nowhere := range []string{filepath.Join(t.TempDir(), "cgroup"), "/sys/fs/other/cgroup"} {
		f := NewFreezer(filepath.Join(nowhere, state))
		if pids, err := f.Tasks(); err == nil {
			t.Errorf("%s: taken for empty: %v", nowhere, pids)
		}
		if err := f.KillAll(); err == nil {
			t.Errorf("%s: nothing was to be killed there", nowhere)
		}
	}
}

// What is found beside something that cannot be listed is told, and so is that it is not all.
func TestTasksOfWhatCannotBeListed(t *testing.T) {
	dir := t.TempDir()
	for name, pid := range map[string]int{".": 1001, "seen": 1002} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "cgroup.procs"), fmt.Appendln(nil, pid), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := NewFreezer(filepath.Join(dir, "freezer.state"))
	want := []int{1001, 1002}
	if pids, err := f.Tasks(); err != nil || !slices.Equal(pids, want) {
		t.Errorf("%v, %v", pids, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "hidden"), 0o700); err != nil {
		t.Fatal(err)
	}
	if pids, err := f.Tasks(); err == nil || !slices.Equal(pids, want) {
		t.Errorf("%v, %v", pids, err)
	}
}
