package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// A restore that is cut off may leave processes, mounts and cgroups that nobody else knows of: runc, when it is killed, a mount of the whole
// root file system in its state directory; CRIU, when it is killed, the processes that it has restored, which run on, and mounts of
// the cgroup hierarchies in its work directory. So they are noted in the bundle from the beginning on.

// noteName is the note's file in the directory that the shim has in the bundle.
const noteName = "restore.json"

// residue is what a restore may leave.
type residue struct {
	Init    identity `json:"init"`
	CRIU    identity `json:"criu"`
	Runtime identity `json:"runtime"`
	State   string   `json:"state"`             // runc's directory of the container
	Work    string   `json:"work"`              // CRIU's work directory
	Images  string   `json:"images"`            // directory of the checkpoint
	Cgroups []string `json:"cgroups,omitempty"` // directories
}

func notePath(bundle string) string { return filepath.Join(bundle, ownDir, noteName) }

// readResidue returns os.ErrNotExist if no restore is under way.
func readResidue(bundle string) (*residue, error) {
	data, err := os.ReadFile(notePath(bundle))
	if err != nil {
		return nil, fmt.Errorf("read the note of a restore: %w", err)
	}
	var r residue
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("decode %s: %w", notePath(bundle), err)
	}
	return &r, nil
}

func (r *residue) write(bundle string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the note of a restore: %w", err)
	}
	next := notePath(bundle) + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return fmt.Errorf("note the restore: %w", err)
	}
	if err := os.Rename(next, notePath(bundle)); err != nil {
		return fmt.Errorf("note the restore: %w", err)
	}
	return nil
}

// deathLimit bounds the wait for processes that were killed.
const deathLimit = 5 * time.Second

// remove ends the processes, and takes mounts and images away. The first process goes first: without CRIU it would run.
func (r *residue) remove() error {
	for _, id := range []identity{r.Init, r.CRIU, r.Runtime} {
		p, err := id.find()
		if err != nil {
			return err
		}
		p.kill()
		dead := p.await(deathLimit)
		p.close()
		if !dead {
			return fmt.Errorf("process %d was killed and does not end", id.Pid)
		}
	}
	return errors.Join(r.removeMounts(), r.removeImages())
}

// removeMounts takes away what runc and CRIU mount for a restore: runc, libcontainer/criu_linux.go; criu/cgroup.c.
func (r *residue) removeMounts() error {
	root := filepath.Join(r.State, "criu-root")
	if err := unmountAll(root); err != nil {
		return err
	}
	if err := os.Remove(root); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove runc's mount point: %w", err)
	}
	yards, err := filepath.Glob(filepath.Join(r.Work, ".criu.cgyard.*"))
	if err != nil {
		return fmt.Errorf("look for CRIU's mounts: %w", err)
	}
	for _, yard := range yards {
		if err := unmountAll(yard); err != nil {
			return err
		}
		if err := os.Remove(yard); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove CRIU's mount point: %w", err)
		}
	}
	return nil
}

func unmountAll(path string) error {
	if err := mount.UnmountRecursive(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// unpacked is how directories are called to which containerd unpacks checkpoints of its content store, and which it never removes
// (containerd, plugins/services/tasks/local.go). They may hold all memory of a container.
const unpacked = "ctrd-checkpoint"

func (r *residue) removeImages() error {
	if !strings.HasPrefix(filepath.Base(r.Images), unpacked) {
		return nil
	}
	if err := os.RemoveAll(r.Images); err != nil {
		return fmt.Errorf("remove the unpacked checkpoint: %w", err)
	}
	return nil
}

// removeCgroups is for cgroups of which runc has not noted yet that they are there.
func (r *residue) removeCgroups() error {
	var errs []error
	for _, dir := range r.Cgroups {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// cgroupsOf lists the directories of the cgroups that a process is in, those of the container by its id.
func cgroupsOf(pid int, id string) ([]string, error) {
	cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, fmt.Errorf("look for the cgroups of process %d: %w", pid, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("look for the cgroup mounts: %w", err)
	}
	return cgroupDirs(string(cgroups), string(mounts), id), nil
}

// cgroupDirs joins a process's cgroups with where their hierarchies are mounted (cgroups(7), proc_pid_mountinfo(5)).
func cgroupDirs(cgroups, mounts, id string) (dirs []string) {
	for line := range strings.Lines(cgroups) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || !strings.Contains(filepath.Base(f[2]), id) {
			continue
		}
		for line := range strings.Lines(mounts) {
			m := strings.Fields(line)
			dash := slices.Index(m, "-")
			if dash < 6 || len(m) < dash+4 {
				continue
			}
			rest, below := strings.CutPrefix(f[2], strings.TrimSuffix(m[3], "/")+"/")
			if below && holdsHierarchy(m[dash+1], m[dash+3], f[1]) {
				dirs = append(dirs, filepath.Join(m[4], rest))
			}
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// holdsHierarchy says whether a mount is that of a hierarchy: of version 2 without controllers, of version 1 with exactly these.
func holdsHierarchy(kind, options, controllers string) bool {
	if controllers == "" {
		return kind == "cgroup2"
	}
	if kind != "cgroup" {
		return false
	}
	has := strings.Split(options, ",")
	return !slices.ContainsFunc(strings.Split(controllers, ","), func(c string) bool { return !slices.Contains(has, c) })
}
