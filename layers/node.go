package layers

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// node is one entry of a tree, by name in its directory.
type node struct {
	name  string
	id    ident
	attrs digest   // of the carried attributes; valid once sent
	file  *content // regular files that the destination holds; see content
	dir   *dirNode // directories
	flags nodeFlags
}

type nodeFlags uint8

const (
	flagRacy    nodeFlags = 1 << iota // ctime too young to be trusted, see Options.Racy
	flagDirty                         // changed under the reader: compare again next round
	flagGone                          // vanished before it was sent; not in the index
	flagTouched                       // directory whose mtime the destination must set again
)

type dirNode struct {
	parent   *node  // nil for the upper directory itself
	children []node // sorted by name, byte-wise
}

// ident is what a stat says of an entry, access time and directory sizes left out.
type ident struct {
	ino   uint64
	rdev  uint64
	size  int64
	mtime stamp
	ctime stamp
	mode  uint32 // with the S_IFMT bits
	uid   uint32
	gid   uint32
	nlink uint32
}

// stamp is a point in time; int64 nanoseconds would not reach the years that
// file systems store.
type stamp struct {
	sec  int64
	nsec uint32
}

func (s stamp) time() time.Time { return time.Unix(s.sec, int64(s.nsec)) }

func identOf(st *unix.Stat_t) ident {
	id := ident{
		ino: st.Ino, mode: st.Mode, uid: st.Uid, gid: st.Gid,
		mtime: stamp{int64(st.Mtim.Sec), uint32(st.Mtim.Nsec)},
		ctime: stamp{int64(st.Ctim.Sec), uint32(st.Ctim.Nsec)},
	}
	switch id.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return id
	case unix.S_IFCHR, unix.S_IFBLK:
		id.rdev = uint64(st.Rdev)
		if id.isWhiteout() {
			// overlayfs makes all whiteouts hard links of a few inodes and never
			// looks at anything but what they are.
			return ident{mode: unix.S_IFCHR}
		}
	}
	id.size = st.Size
	id.nlink = uint32(st.Nlink)
	return id
}

func (id *ident) kind() uint32    { return id.mode & unix.S_IFMT }
func (id *ident) isDir() bool     { return id.kind() == unix.S_IFDIR }
func (id *ident) isRegular() bool { return id.kind() == unix.S_IFREG }

// isWhiteout: overlayfs.rst, "a whiteout is created as a character device with
// 0/0 device number".
func (id *ident) isWhiteout() bool { return id.kind() == unix.S_IFCHR && id.rdev == 0 }

func (id *ident) isDevice() bool {
	k := id.kind()
	return k == unix.S_IFBLK || k == unix.S_IFCHR && id.rdev != 0
}

// changed says whether the entry must be looked at again: its stat differs from
// the one the destination's copy was made of, or cannot be trusted.
func (n *node) changed(prev *node) bool {
	return prev == nil || n.id != prev.id || prev.flags&flagRacy != 0 || prev.unsettled()
}

// unsettled says that the entry changed while it was read. Its stat need not be
// what the destination was sent.
func (n *node) unsettled() bool {
	return n.flags&flagDirty != 0 || n.file != nil && n.file.dirty
}

// inPlace says whether the destination's entry can be turned into n without
// removing it first. Directories always can, regular files when they are the
// same inode; all others are replaced whenever they changed.
func (n *node) inPlace(prev *node) bool {
	if prev == nil || n.id.kind() != prev.id.kind() {
		return false
	}
	switch n.id.kind() {
	case unix.S_IFDIR:
		return true
	case unix.S_IFREG:
		return n.id.ino == prev.id.ino
	default:
		return !n.changed(prev)
	}
}

// childrenOf returns the children of n, which may be nil or no directory.
func childrenOf(n *node) []node {
	if n == nil || n.dir == nil {
		return nil
	}
	return n.dir.children
}

// mergeChildren calls fn for each name in a or b, in order; one of the two
// arguments of fn is nil where only the other side has the name.
func mergeChildren(a, b *node, fn func(a, b *node) error) error {
	x, y := childrenOf(a), childrenOf(b)
	for len(x) > 0 || len(y) > 0 {
		var p, q *node
		switch c := compareHeads(x, y); {
		case c < 0:
			p, x = &x[0], x[1:]
		case c > 0:
			q, y = &y[0], y[1:]
		default:
			p, q, x, y = &x[0], &y[0], x[1:], y[1:]
		}
		if err := fn(p, q); err != nil {
			return err
		}
	}
	return nil
}

func compareHeads(x, y []node) int {
	if len(x) == 0 {
		return 1
	}
	if len(y) == 0 {
		return -1
	}
	return strings.Compare(x[0].name, y[0].name)
}
