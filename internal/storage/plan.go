package storage

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/continuity/fs"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Request is what a plan is made from.
type Request struct {
	Pid    int // init of the container, running
	Spec   json.RawMessage
	Labels map[string]string
	Binds  map[string]string // path here → path at the destination, as the user says
	Copies []string          // paths here whose content is to come along, as the user says
	// KeepDNS makes resolv.conf come along instead of being made for the destination.
	KeepDNS bool
}

// Tree is a volume at its source.
type Tree struct {
	Volume
	Source  string // of a bind: path on this host
	Real    string // where the container has it, without symbolic links on the way
	Dev     uint64 // device, as a stat has it
	Mounted uint64 // of a bind: device of its file system, as the mount has it, which btrfs tells apart
	Root    string // of a bind: directory of that file system
}

// Plan is what becomes of a container's mounts.
type Plan struct {
	Trees  []Tree
	Spec   json.RawMessage // with the paths that the destination is to bind
	Unused []string        // of the request's Binds and Copies, those that the container does not bind
}

// The files that engines bind over an image's own.
const (
	resolvConf = "/etc/resolv.conf"
	hostsFile  = "/etc/hosts"
	hostname   = "/etc/hostname"
)

// Make plans. Tmpfs that CRIU has to carry itself, for a reason that Plan knows, are not in the plan.
func Make(r Request) (*Plan, error) {
	var s specs.Spec
	if err := json.Unmarshal(r.Spec, &s); err != nil {
		return nil, fmt.Errorf("decode the container's specification: %w", err)
	}
	mounts, err := Mounts(r.Pid)
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	used := map[string]bool{}
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if !IsBind(*m) {
			continue
		}
		t, err := r.bind(m, mounts)
		if err != nil {
			return nil, err
		}
		used[t.Source] = true
		m.Source = t.Path
		p.Trees = append(p.Trees, t)
	}
	if !hostMounts(r.Pid) {
		p.Trees = append(p.Trees, tmpfs(mounts, p.Trees, &s, func(path string) uint64 {
			_, st, _ := typeOf(rootOf(r.Pid) + path) // of what cannot be looked at it is no device's
			return st.Dev
		})...)
	}
	for path := range r.Binds {
		if !used[path] {
			p.Unused = append(p.Unused, path)
		}
	}
	for _, path := range r.Copies {
		if !used[path] {
			p.Unused = append(p.Unused, path)
		}
	}
	slices.Sort(p.Unused)
	if len(r.Binds) == 0 {
		p.Spec = r.Spec // as it is, to the byte
		return p, nil
	}
	if p.Spec, err = json.Marshal(s); err != nil {
		return nil, fmt.Errorf("encode the container's specification: %w", err)
	}
	return p, nil
}

// hostMounts says whether a process has this process's mounts: they are the host's then, not the container's.
func hostMounts(pid int) bool {
	a, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	b, berr := os.Readlink("/proc/thread-self/ns/mnt")
	return err != nil || berr != nil || a == b
}

// IsBind says whether a mount of a specification binds a path of the host.
func IsBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// bind plans one bind mount.
func (r Request) bind(m *specs.Mount, mounts []*mountinfo.Info) (Tree, error) {
	t := Tree{Source: filepath.Clean(m.Source)}
	t.Mount, t.Path = filepath.Clean(m.Destination), t.Source
	var err error
	if t.Real, err = realPath(r.Pid, t.Mount); err != nil {
		return t, err
	}
	kind, st, err := typeOf(rootOf(r.Pid) + t.Real)
	if err != nil {
		return t, fmt.Errorf("look at the bind mount at %s: %w", t.Mount, err)
	}
	t.Type, t.Dev = kind, st.Dev
	if at := mountedAt(mounts, t.Real); at != nil {
		t.Mounted, t.Root = devOf(at), at.Root
	}
	to, remapped := r.Binds[t.Source]
	copied := slices.Contains(r.Copies, t.Source)
	if remapped {
		t.Path = to
	}
	name, named := volumeName(r.Labels, t.Source)
	t.Name = name
	switch {
	case copied:
		t.How = Copied
	case remapped:
		t.How = Present
	case kind == File && slices.Contains([]string{resolvConf, hostsFile, hostname}, t.Mount):
		t.How = r.engineFile(t)
	case named:
		t.How = Copied
	default:
		t.How = Present
	}
	if t.How == Copied && kind != Dir && kind != File {
		return t, fmt.Errorf("%s, bound at %s, is a %s: %w", t.Source, t.Mount, kind, ErrNoContent)
	}
	return t, nil
}

// engineFile: what the container has of the host's own files it gets at the destination, too. Others the engine made for this very
// container. Names and addresses move with it, the resolvers of its host do not.
func (r Request) engineFile(t Tree) How {
	switch {
	case t.Mount == resolvConf && r.KeepDNS:
		return Carried
	case t.Source == t.Mount:
		return Present
	case t.Mount == resolvConf:
		return Remade
	}
	return Carried
}

// mountedAt finds the mount that is seen at a path: the last one there.
func mountedAt(mounts []*mountinfo.Info, path string) *mountinfo.Info {
	for _, m := range slices.Backward(mounts) {
		if m.Mountpoint == path {
			return m
		}
	}
	return nil
}

// rootOf is where this process finds the root directory of another one.
func rootOf(pid int) string { return fmt.Sprintf("/proc/%d/root", pid) }

// realPath follows the symbolic links in a path as a process would, within its own root.
func realPath(pid int, path string) (string, error) {
	full, err := fs.RootPath(rootOf(pid), path)
	if err != nil {
		return "", fmt.Errorf("look at %s of process %d: %w", path, pid, err)
	}
	return filepath.Join("/", strings.TrimPrefix(full, rootOf(pid))), nil
}

// Below lists what is mounted below a path of a process, other than the trees: it would be missing from what View shows.
func Below(pid int, trees []Tree, path string) ([]string, error) {
	own := map[string]bool{}
	for _, t := range trees {
		own[t.Real] = true
		for _, at := range t.Tmpfs.places() {
			own[at.Mount] = true
		}
	}
	mounts, err := Mounts(pid)
	if err != nil {
		return nil, err
	}
	var below []string
	for _, m := range mounts {
		if _, in := Beneath(m.Mountpoint, path); in && m.Mountpoint != path && !own[m.Mountpoint] {
			below = append(below, m.Mountpoint)
		}
	}
	return below, nil
}

// volumePath is where nerdctl keeps named volumes: below its data root, by a hash of containerd's address, namespace and name.
var volumePath = regexp.MustCompile(`^/var/lib/nerdctl/[0-9a-f]{8}/volumes/([A-Za-z0-9][A-Za-z0-9_.-]*)/([A-Za-z0-9][A-Za-z0-9_.-]*)/_data$`)

// mountsLabel is where nerdctl notes what the user asked for.
const mountsLabel = "nerdctl/mounts"

// dockerVolume is where Docker's local driver keeps named volumes.
var dockerVolume = regexp.MustCompile(`^/var/lib/docker/volumes/([A-Za-z0-9][A-Za-z0-9_.-]*)/_data$`)

// dockerNamespace is that of Docker's containers in descriptions.
const dockerNamespace = "moby"

// volumeName says whether a path is a named volume, which the engine made for its containers, and what it is called.
func volumeName(labels map[string]string, path string) (string, bool) {
	var noted []struct{ Type, Name, Source string }
	if json.Unmarshal([]byte(labels[mountsLabel]), &noted) == nil {
		for _, n := range noted {
			if n.Type == "volume" && n.Name != "" && filepath.Clean(n.Source) == path {
				return n.Name, true
			}
		}
	}
	if m := volumePath.FindStringSubmatch(path); m != nil {
		return m[2], true
	}
	if m := dockerVolume.FindStringSubmatch(path); m != nil {
		return m[1], true
	}
	return "", false
}

// IsVolumePath says whether a path is one where an engine keeps a named volume of a containerd namespace.
func IsVolumePath(path, namespace string) bool {
	if strings.Contains(path, "..") {
		return false
	}
	if namespace == dockerNamespace {
		return dockerVolume.MatchString(path)
	}
	m := volumePath.FindStringSubmatch(path)
	return m != nil && m[1] == namespace
}

// SameFile says whether the path of a bind still is what the container has: a file that was replaced since it was bound is
// another one.
func (t *Tree) SameFile(pid int) (bool, error) {
	a, err := os.Stat(t.Source)
	if err != nil {
		return false, err
	}
	b, err := os.Stat(rootOf(pid) + t.Real)
	if err != nil {
		return false, err
	}
	return os.SameFile(a, b), nil
}
