// Package layertest helps tests that move overlay upper directories: it takes
// a picture of a tree that two trees can be compared by, makes trees of every
// kind of entry, and changes them at random.
//
//	layertest.Populate(src, 500, seed)
//	… move src to dst …
//	want, _ := layertest.Snapshot(src)
//	got, _ := layertest.Snapshot(dst)
//	if d := layertest.Diff(want, got); len(d) > 0 { t.Fatal(strings.Join(d, "\n")) }
//
// It shares no code with package layers, so that a fault there does not hide
// itself. It needs root.
package layertest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Picture maps each path of a tree, "." for the directory itself, to a line that
// says everything that must be equal: kind, mode, owner, mtime, content, layout
// of holes, extended attributes, link target and the other names of the file.
// Whiteouts are whiteouts and nothing else, as overlayfs sees them.
type Picture map[string]string

// Snapshot takes the picture of dir, which must not change meanwhile. Paths may
// be longer than PATH_MAX.
func Snapshot(dir string) (Picture, error) {
	s := snapshot{pic: Picture{}, names: map[uint64][]string{}}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := s.entry(f, ".", "."); err != nil {
		return nil, fmt.Errorf("snapshot of %s: %w", dir, err)
	}
	for _, names := range s.names {
		slices.Sort(names)
		for _, n := range names {
			s.pic[n] += fmt.Sprintf(" names=%q", names)
		}
	}
	return s.pic, nil
}

// Diff returns a line for each path in which two pictures differ, nil if none do.
func Diff(want, got Picture) []string {
	all := maps.Clone(want)
	maps.Copy(all, got)
	var out []string
	for _, p := range slices.Sorted(maps.Keys(all)) {
		switch w, g := want[p], got[p]; {
		case w == g:
		case g == "":
			out = append(out, fmt.Sprintf("%q missing: %s", p, w))
		case w == "":
			out = append(out, fmt.Sprintf("%q too many: %s", p, g))
		default:
			out = append(out, fmt.Sprintf("%q\n  want %s\n  got  %s", p, w, g))
		}
	}
	return out
}

type snapshot struct {
	pic   Picture
	names map[uint64][]string // regular files of several names, by inode
}

func (s *snapshot) entry(dir *os.File, name, path string) error {
	at := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
	var st unix.Stat_t
	if err := unix.Lstat(at, &st); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		s.pic[path] = "whiteout"
		return nil
	}
	attrs, err := attributes(at)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	line := fmt.Sprintf("mode=%#o owner=%d:%d mtime=%d.%09d%s", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, attrs)
	more := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if st.Nlink > 1 {
			s.names[st.Ino] = append(s.names[st.Ino], path)
		}
		more, err = describeFile(at)
	case unix.S_IFLNK:
		more, err = os.Readlink(at)
		more = fmt.Sprintf(" target=%q", more)
	case unix.S_IFCHR, unix.S_IFBLK:
		more = fmt.Sprintf(" device=%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	case unix.S_IFDIR:
		err = s.children(at, path)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	s.pic[path] = line + more
	return nil
}

func (s *snapshot) children(at, path string) error {
	fd, err := unix.Open(at, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), path)
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.entry(dir, name, path+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

func describeFile(at string) (string, error) {
	f, err := os.Open(at)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	layout, err := dataRanges(f, info.Size())
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, r := range layout {
		if _, err := io.Copy(h, io.NewSectionReader(f, r[0], r[1]-r[0])); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf(" size=%d data=%v sha256=%x", info.Size(), layout, h.Sum(nil)[:12]), nil
}

// dataRanges lists where a file has data. Data not yet written out have no place
// on disk, and some file systems then report holes differently.
func dataRanges(f *os.File, size int64) ([][2]int64, error) {
	if st := info(f); st != nil && st.Blocks*512 < size {
		if err := f.Sync(); err != nil {
			return nil, err
		}
	}
	var out [][2]int64
	for pos := int64(0); pos < size; {
		at, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return nil, err
		}
		if pos, err = unix.Seek(int(f.Fd()), at, unix.SEEK_HOLE); err != nil {
			return nil, err
		}
		out = append(out, [2]int64{at, pos})
	}
	return out, nil
}

func info(f *os.File) *syscall.Stat_t {
	fi, err := f.Stat()
	if err != nil {
		return nil
	}
	st, _ := fi.Sys().(*syscall.Stat_t)
	return st
}

// hostAttrs name inodes of one host, or its policy; they never travel.
var hostAttrs = []string{"origin", "impure", "nlink", "upper", "uuid"}

func attributes(at string) (string, error) {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(at, names)
	if err == unix.EOPNOTSUPP {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var out []string
	for _, name := range strings.Split(string(names[:n]), "\x00") {
		if name == "" || hostAttr(name) {
			continue
		}
		v := make([]byte, 64<<10)
		m, err := unix.Lgetxattr(at, name, v)
		if err != nil {
			return "", err
		}
		out = append(out, fmt.Sprintf(" %s=%q", name, v[:m]))
	}
	slices.Sort(out)
	return strings.Join(out, ""), nil
}

func hostAttr(name string) bool {
	overlay := strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
	if overlay {
		return slices.Contains(hostAttrs, name[strings.LastIndexByte(name, '.')+1:])
	}
	return strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "security.") && name != "security.capability"
}
