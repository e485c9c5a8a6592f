package criu

import (
	"fmt"
	"os"
	"path/filepath"

	"migrate/internal/cgroup"
)

// FreezerOf finds the state file of the freezer that a process is under, as NewFreezer takes it.
func FreezerOf(pid int) (string, error) {
	d, err := cgroup.Find(pid, "freezer")
	if err != nil {
		return "", err
	}
	path := filepath.Join(d.Path, "freezer.state")
	if d.Unified {
		path = filepath.Join(d.Path, "cgroup.freeze")
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find the freezer of process %d: %w", pid, err)
	}
	return path, nil
}
