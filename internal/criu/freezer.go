package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Freezer is the freezer of a container's cgroup, of version 1 (freezer.state) or 2 (cgroup.freeze).
//
// CRIU thaws the cgroup once it holds all tasks by ptrace, so that a CRIU that is killed would let them run. Freezing again
// while CRIU holds them closes that gap: they then stay where they are whatever becomes of CRIU, the hook and the agent.
type Freezer struct {
	path string // of the state file
}

// NewFreezer takes the path of the state file; an empty one makes a Freezer that does nothing.
func NewFreezer(path string) *Freezer { return &Freezer{path} }

const (
	freezeLimit = 2 * time.Second
	freezePoll  = 500 * time.Microsecond
)

func (f *Freezer) v2() bool { return filepath.Base(f.path) == "cgroup.freeze" }

// Freeze returns when all tasks are frozen.
func (f *Freezer) Freeze() error {
	if f.path == "" {
		return nil
	}
	word := "FROZEN"
	if f.v2() {
		word = "1"
	}
	for end := time.Now().Add(freezeLimit); ; {
		// version 1 has to be told again while tasks are on their way (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst)
		if err := os.WriteFile(f.path, []byte(word), 0); err != nil {
			return fmt.Errorf("freeze cgroup: %w", err)
		}
		frozen, err := f.Frozen()
		if err != nil || frozen {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("freeze cgroup %s: not frozen after %v", filepath.Dir(f.path), freezeLimit)
		}
		time.Sleep(freezePoll)
	}
}

// Frozen says whether all tasks are frozen.
func (f *Freezer) Frozen() (bool, error) {
	if f.path == "" {
		return false, nil
	}
	path, want := f.path, "FROZEN"
	if f.v2() {
		path, want = filepath.Join(filepath.Dir(f.path), "cgroup.events"), "frozen 1"
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("read cgroup state: %w", err)
	}
	return strings.Contains(string(b), want), nil
}

// Thaw lets the tasks go on.
func (f *Freezer) Thaw() error {
	if f.path == "" {
		return nil
	}
	word := "THAWED"
	if f.v2() {
		word = "0"
	}
	if err := os.WriteFile(f.path, []byte(word), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("thaw cgroup: %w", err)
	}
	return nil
}
