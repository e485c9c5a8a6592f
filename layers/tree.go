package layers

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tree opens what is below one directory and never anything else, whoever
// renames or replaces parts of it meanwhile. It keeps the directory it opened
// last. Not safe for use by several goroutines; see dup.
type tree struct {
	root *os.File
	last *os.File // directory at lastPath, nil if none
	path string
}

// chunk is how much of a path one openat2 is given; the kernel takes PATH_MAX
// (4096) with the NUL. Longer paths are walked in several steps.
const chunk = 4000

// openTree opens the directory path. A symbolic link is followed here and only
// here: path is the caller's.
func openTree(path string) (*tree, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open upper directory: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	return &tree{root: os.NewFile(uintptr(fd), path)}, nil
}

// share returns a tree for another goroutine. It does not own the root.
func (t *tree) share() *tree { return &tree{root: t.root} }

func (t *tree) close() {
	t.forget()
	t.root.Close()
}

func (t *tree) forget() {
	if t.last != nil {
		t.last.Close()
		t.last = nil
	}
}

// dir returns the directory at path, owned by the tree and open until the next
// call of dir or forget.
func (t *tree) dir(path string) (*os.File, error) {
	if path == "" {
		return t.root, nil
	}
	if t.last != nil && t.path == path {
		return t.last, nil
	}
	t.forget()
	f, err := t.openDir(path)
	if err != nil {
		return nil, err
	}
	t.last, t.path = f, path
	return f, nil
}

// openDir opens the directory at path for the caller, who closes it.
func (t *tree) openDir(path string) (*os.File, error) {
	at := t.root
	for rest := path; ; {
		step := rest
		if len(step) > chunk {
			i := strings.LastIndexByte(step[:chunk], '/')
			if i < 0 {
				return nil, &os.PathError{Op: "open", Path: path, Err: unix.ENAMETOOLONG}
			}
			step = step[:i]
		}
		fd, err := openBeneath(int(at.Fd()), step)
		if at != t.root {
			at.Close()
		}
		if err != nil {
			return nil, &os.PathError{Op: "open directory", Path: path, Err: err}
		}
		at = os.NewFile(uintptr(fd), path)
		if len(step) == len(rest) {
			return at, nil
		}
		rest = rest[len(step)+1:]
	}
}

// openBeneath opens a directory without following any link on the way.
func openBeneath(at int, path string) (int, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NOATIME | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(at, path, &how)
		switch err {
		case unix.EINTR, unix.EAGAIN: // EAGAIN: a rename raced with RESOLVE_BENEATH
			continue
		case unix.EPERM: // O_NOATIME needs the owner or CAP_FOWNER
			if how.Flags&unix.O_NOATIME != 0 {
				how.Flags &^= unix.O_NOATIME
				continue
			}
		}
		return fd, err
	}
}

// parent returns the directory that holds path, and the name in it.
func (t *tree) parent(path string) (dir *os.File, name string, err error) {
	parent, name := splitPath(path)
	dir, err = t.dir(parent)
	return dir, name, err
}

// procName names an entry for system calls that take no directory descriptor.
// The L variants of those calls do not follow name itself.
func procName(dir *os.File, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + name
}

// lstat stats name in dir without following it.
func lstat(dir *os.File, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err != unix.EINTR {
			return st, err
		}
	}
}

// openRegular opens a regular file for reading, and nothing else: opening a FIFO
// may block and opening a device may have effects, so the entry is first pinned
// with O_PATH, looked at, and then reopened through the descriptor.
// The file's stat is returned with it.
func openRegular(dir *os.File, name string) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	pin, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, err
	}
	defer unix.Close(pin)
	if err := unix.Fstat(pin, &st); err != nil {
		return nil, st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, unix.ESTALE
	}
	self := "/proc/self/fd/" + strconv.Itoa(pin)
	fd, err := unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err == unix.EPERM {
		fd, err = unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, st, err
	}
	return os.NewFile(uintptr(fd), name), st, nil
}
