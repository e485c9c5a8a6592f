package criu

import (
	"slices"

	"migrate/internal/track"
)

// Spawning says whether a frozen task has its memory in common with its parent, as after vfork, by which most programs start others,
// until it runs the other program. The parent waits for that in the kernel, where CRIU cannot stop it.
func (f *Freezer) Spawning() (bool, error) {
	pids, err := f.Tasks()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(pids, func(pid int) bool {
		parent, ok := parentOf(pid)
		return ok && slices.Contains(pids, parent) && track.SharesMemory(pid, parent)
	}), nil
}
