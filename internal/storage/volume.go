package storage

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// How says what becomes of a mount when its container moves.
type How string

// The ways. The values are part of the wire protocol and of the report.
const (
	Present How = "present" // the destination has its own; only its kind is compared
	Copied  How = "copied"  // its content comes along, to a path of the destination
	Carried How = "carried" // its content comes along, to wherever the destination keeps such files
	Remade  How = "remade"  // the destination makes it
	Memory  How = "memory"  // a tmpfs: its content comes along
	Output  How = "output"  // no mount, but the file in which the engine keeps what the container prints: its content comes along
	Shared  How = "shared"  // both hosts see the same storage; never in an offer, but what becomes of a copy
)

// Type is what kind of thing a bind mount shows.
type Type string

// The types.
const (
	Dir    Type = "directory"
	File   Type = "file"
	Socket Type = "socket"
	FIFO   Type = "fifo"
	Device Type = "device"
)

// Limits on what a peer may announce.
const (
	MaxVolumes = 256
	maxPlaces  = 1024 // of one tmpfs
	maxPath    = 4096
)

// Volume is one mount of a container, or, of a tmpfs that is mounted in several places, all of them. It crosses the wire.
type Volume struct {
	Mount   string `json:"mount"` // where the container has it; of several places the first
	How     How    `json:"how"`
	Type    Type   `json:"type,omitempty"`    // of a bind
	Path    string `json:"path,omitempty"`    // of a bind: at the destination
	Name    string `json:"name,omitempty"`    // of an engine's named volume
	File    string `json:"file,omitempty"`    // of a file whose content comes along: what its streams call it
	Bytes   int64  `json:"bytes,omitempty"`   // of content that comes along, about
	Entries int64  `json:"entries,omitempty"` // likewise
	Tmpfs   *Tmpfs `json:"tmpfs,omitempty"`   // with Memory only
}

// Tmpfs is what a tmpfs is made of, its content aside.
type Tmpfs struct {
	Options  []string `json:"options,omitempty"` // mount options of the file system itself: size=, mode=, …
	ReadOnly bool     `json:"read_only,omitempty"`
	Source   string   `json:"source,omitempty"` // the name that it is shown with, such as shm
	Places   []At     `json:"places"`           // where it is mounted
}

// At is a place where a file system is mounted.
type At struct {
	Mount string `json:"mount"` // in the container
	Root  string `json:"root"`  // directory of the file system that is seen there, "/" for all of it
	Key   string `json:"key"`   // by which CRIU's image set names it
}

// Comes says whether content of the volume is sent.
func (v *Volume) Comes() bool {
	return v.How == Copied || v.How == Carried || v.How == Memory || v.How == Output
}

// String names a volume in messages.
func (v *Volume) String() string {
	switch {
	case v.How == Memory:
		return "tmpfs at " + v.Mount
	case v.How == Output:
		return "log of the container's output"
	case v.Name != "":
		return fmt.Sprintf("volume %q at %s", v.Name, v.Mount)
	}
	return fmt.Sprintf("%s at %s", v.Path, v.Mount)
}

// Check says whether a peer's volume makes sense by itself. What it asks of this host is the policy's to judge.
func (v *Volume) Check() error {
	switch {
	case !cleanPath(v.Mount):
		return fmt.Errorf("volume at %q: not a clean absolute path", v.Mount)
	case !slices.Contains([]How{Present, Copied, Carried, Remade, Memory, Output}, v.How):
		return fmt.Errorf("volume at %s: travels in an unknown way %q", v.Mount, v.How)
	case v.Bytes < 0 || v.Entries < 0 || v.Bytes >= 1<<50 || v.Entries >= 1<<50:
		return fmt.Errorf("volume at %s: impossible size", v.Mount)
	case v.How == Memory:
		return v.Tmpfs.check(v.Mount)
	case v.Tmpfs != nil:
		return fmt.Errorf("volume at %s: a bind with the options of a tmpfs", v.Mount)
	case !filepath.IsAbs(v.Path) || len(v.Path) > maxPath || strings.ContainsRune(v.Path, 0):
		return fmt.Errorf("volume at %s: %q is not an absolute path", v.Mount, v.Path)
	case v.How != Present && v.Type != Dir && v.Type != File:
		return fmt.Errorf("volume at %s: a %s has no content", v.Mount, v.Type)
	case v.Type == File && v.Comes() && (filepath.Base(v.File) != v.File || !filepath.IsLocal(v.File)):
		return fmt.Errorf("volume at %s: file %q", v.Mount, v.File)
	case (v.How == Carried || v.How == Remade || v.How == Output) && v.Type != File:
		return fmt.Errorf("volume at %s: only files travel as %s", v.Mount, v.How)
	}
	return nil
}

// plain is what CRIU's configuration file takes as a word, without the signs that have a meaning in it.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./@+~-]+$`)

// tmpfsOption is what a tmpfs may be mounted with: what it may hold and whose it is, never more than that.
var tmpfsOption = regexp.MustCompile(`^(size|nr_blocks|nr_inodes)=[0-9]+[kKmMgG%]?$|^mode=[0-7]{1,5}$|^(uid|gid)=[0-9]{1,10}$|^inode(32|64)$|^huge=(never|always|within_size|advise)$|^noswap$`)

func (t *Tmpfs) check(mount string) error {
	if t == nil || len(t.Places) == 0 || len(t.Places) > maxPlaces {
		return fmt.Errorf("tmpfs at %s: mounted in %d places", mount, len(t.places()))
	}
	if t.Source != "" && !plain.MatchString(t.Source) {
		return fmt.Errorf("tmpfs at %s: source %q", mount, t.Source)
	}
	for _, o := range t.Options {
		if !tmpfsOption.MatchString(o) {
			return fmt.Errorf("tmpfs at %s: option %q", mount, o)
		}
	}
	for _, p := range t.Places {
		if !cleanPath(p.Mount) || !cleanPath(p.Root) || !plain.MatchString(p.Root) || !plain.MatchString(p.Key) || strings.Contains(p.Key, "/") {
			return fmt.Errorf("tmpfs at %s: place %+v", mount, p)
		}
	}
	return nil
}

func (t *Tmpfs) places() []At {
	if t == nil {
		return nil
	}
	return t.Places
}

func cleanPath(p string) bool {
	return filepath.IsAbs(p) && filepath.Clean(p) == p && len(p) <= maxPath && !strings.ContainsRune(p, 0)
}
