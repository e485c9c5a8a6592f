package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// tmpfs plans the container's memory file systems. CRIU would pack each into a gzipped archive while the container stands
// still; what is in the plan is declared external to CRIU, which then mounts what the destination has made ready. Left to CRIU
// are those that a bind of the host's shows, of which no mount shows the whole, that others are mounted over, and whose paths CRIU's
// configuration cannot name. seen gives the device of the file system that the container sees at a path.
func tmpfs(mounts []*mountinfo.Info, bound []Tree, s *specs.Spec, seen func(path string) (dev uint64)) []Tree {
	binds, masked := map[string]bool{}, map[string]bool{}
	for _, t := range bound {
		binds[t.Real] = true
	}
	if s.Linux != nil {
		for _, p := range s.Linux.MaskedPaths {
			masked[filepath.Clean(p)] = true
		}
	}
	at := map[string]int{} // mounts by place
	for _, m := range mounts {
		at[m.Mountpoint]++
	}
	groups := map[uint64][]*mountinfo.Info{}
	var order []uint64
	for _, m := range mounts {
		if m.FSType != "tmpfs" {
			continue
		}
		dev := devOf(m)
		if groups[dev] == nil {
			order = append(order, dev)
		}
		groups[dev] = append(groups[dev], m)
	}
	var trees []Tree
	for _, dev := range order {
		t, ok := memoryTree(groups[dev], binds, masked, len(trees))
		hidden := slices.ContainsFunc(t.Tmpfs.Places, func(p At) bool { return at[p.Mount] > 1 || seen(p.Mount) != dev })
		if ok && !hidden {
			t.Real, t.Dev = t.Mount, dev
			trees = append(trees, t)
		}
	}
	return trees
}

// memoryTree plans one file system, which is mounted in one or several places.
func memoryTree(group []*mountinfo.Info, binds, masked map[string]bool, n int) (Tree, bool) {
	t := Tree{Volume: Volume{How: Memory, Tmpfs: &Tmpfs{Options: ownOptions(group[0].VFSOptions), ReadOnly: hasOption(group[0].VFSOptions, "ro")}}}
	if s := group[0].Source; plain.MatchString(s) {
		t.Tmpfs.Source = s
	}
	for i, m := range group {
		switch {
		case binds[m.Mountpoint], !plain.MatchString(m.Mountpoint), !plain.MatchString(m.Root):
			return t, false
		case masked[m.Mountpoint] && m.Root != "/":
			continue // a file that is hidden by a device, which the runtime declares external itself
		case m.Root == "/" && t.Mount == "":
			t.Mount = m.Mountpoint
		}
		t.Tmpfs.Places = append(t.Tmpfs.Places, At{Mount: m.Mountpoint, Root: m.Root, Key: fmt.Sprintf("migrate-%d-%d", n, i)})
	}
	return t, t.Mount != "" && len(t.Tmpfs.Places) <= maxPlaces
}

// ownOptions keeps what a tmpfs may be mounted with anew.
func ownOptions(super string) []string {
	var own []string
	for _, o := range strings.Split(super, ",") {
		if tmpfsOption.MatchString(o) {
			own = append(own, o)
		}
	}
	return own
}

func hasOption(list, option string) bool { return slices.Contains(strings.Split(list, ","), option) }

// DumpExternal are the declarations that make CRIU leave the content of a tmpfs alone.
func (t *Tmpfs) DumpExternal() []string {
	var x []string
	for _, p := range t.places() {
		x = append(x, fmt.Sprintf("mnt[%s]:%s", p.Mount, p.Key))
	}
	return x
}

// RestoreExternal are the declarations that make CRIU mount what is ready in dir.
func (t *Tmpfs) RestoreExternal(dir string) []string {
	var x []string
	for _, p := range t.places() {
		x = append(x, fmt.Sprintf("mnt[%s]:%s", p.Key, filepath.Join(dir, p.Root)))
	}
	return x
}

// Mount makes the file system at dir, which is made, too. It is writable until Seal.
func (t *Tmpfs) Mount(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a tmpfs: %w", err)
	}
	source := t.Source
	if source == "" {
		source = "tmpfs"
	}
	if err := unix.Mount(source, dir, "tmpfs", 0, strings.Join(t.Options, ",")); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", dir, err)
	}
	return nil
}

// Seal makes a file system read-only that was so at the source.
func (t *Tmpfs) Seal(dir string) error {
	if !t.ReadOnly {
		return nil
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make the tmpfs at %s read-only: %w", dir, err)
	}
	return nil
}

// Unmount takes the mount at dir away. The file system lives on as long as a container has it mounted. It may be repeated.
func Unmount(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount the tmpfs at %s: %w", dir, err)
	}
	return nil
}
