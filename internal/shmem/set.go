package shmem

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"migrate/internal/track"
)

// Set is the shared memory of a container's processes. It holds on to the objects that it has found until nobody has them any more. It is
// for one goroutine at a time.
type Set struct {
	devs    map[string]bool // of the kernel's own file systems for shared memory
	plain   string          // of these, that which has pages of the usual size
	objects map[key]*Object
	rings   bool
}

// NewSet makes an empty set.
func NewSet() (*Set, error) {
	s := &Set{devs: map[string]bool{}, objects: map[key]*Object{}}
	dev, err := deviceOf(0)
	if err != nil {
		return nil, fmt.Errorf("find out where the kernel keeps shared memory: %w", err)
	}
	s.devs[dev], s.plain = true, dev
	for _, flag := range hugeSizes() {
		if dev, err := deviceOf(unix.MFD_HUGETLB | flag); err == nil { // else the kernel has no such pages to share
			s.devs[dev] = true
		}
	}
	return s, nil
}

// deviceOf is the device number of files made by memfd_create, as /proc/PID/maps writes it.
func deviceOf(flags int) (string, error) {
	fd, err := unix.MemfdCreate("migrate", flags|unix.MFD_CLOEXEC)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("%02x:%02x", unix.Major(st.Dev), unix.Minor(st.Dev)), nil
}

// hugeSizes lists the sizes of huge pages that this kernel knows, as flags of memfd_create.
func hugeSizes() []int {
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil
	}
	var flags []int
	for _, e := range entries {
		text, _ := strings.CutPrefix(e.Name(), "hugepages-")
		kb, err := strconv.ParseUint(strings.TrimSuffix(text, "kB"), 10, 32)
		if err != nil || kb == 0 {
			continue
		}
		shift := 10
		for ; kb > 1; kb >>= 1 {
			shift++
		}
		flags = append(flags, shift<<unix.MFD_HUGE_SHIFT)
	}
	return flags
}

// AmbiguousError says that two objects have the same number. CRIU would mix them up.
type AmbiguousError struct{ ID uint64 }

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("two pieces of shared memory have the number %d, which CRIU could not tell apart", e.ID)
}

// Find looks through the processes, by their pids on this host, and returns all objects that any of them has, ascending by ID. Processes
// that end meanwhile do not matter. What it returned before is void.
func (s *Set) Find(pids []int) ([]*Object, error) {
	seen := map[key]*view{}
	s.rings = false
	for _, pid := range pids {
		vpid, err := track.VPid(pid)
		if err == nil {
			err = s.look(pid, vpid, seen)
		}
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("find shared memory of process %d: %w", pid, err)
		}
	}
	for k, o := range s.objects {
		if seen[k] == nil {
			_ = o.Close() // it was only read
			delete(s.objects, k)
		}
	}
	list := make([]*Object, 0, len(seen))
	for k, v := range seen {
		o := s.objects[k]
		o.Handle, o.Windows = v.handle, cover(v.windows)
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b *Object) int { return cmp.Compare(a.ID, b.ID) })
	return list, ambiguous(list)
}

func ambiguous(list []*Object) error {
	spaces := map[int32]bool{}
	for _, o := range list {
		if sp := Space(o.ID); spaces[sp] {
			return &AmbiguousError{o.ID}
		} else {
			spaces[sp] = true
		}
	}
	return nil
}

// Rings says whether a process that the last Find saw has asynchronous I/O set up, which writes memory also while the process stands still.
func (s *Set) Rings() bool { return s.rings }

// Close lets go of all objects.
func (s *Set) Close() error {
	var errs []error
	for k, o := range s.objects {
		errs = append(errs, o.Close())
		delete(s.objects, k)
	}
	return errors.Join(errs...)
}

// view is how processes see an object.
type view struct {
	handle  Handle
	windows []Window
}

// look adds what one process has.
func (s *Set) look(pid, vpid int, seen map[key]*view) error {
	err := readMaps(pid, func(m mapping) bool {
		s.rings = s.rings || m.ring
		if !s.devs[m.key.dev] {
			return true
		}
		h := Handle{VPid: vpid, Addr: m.start}
		v, ok := s.note(m.key, h, seen, func() (*os.File, error) { return os.Open(m.path(pid)) })
		if ok && m.shared && m.writable {
			v.windows = append(v.windows, Window{VPid: vpid, Addr: m.start, Offset: m.offset, Len: m.end - m.start})
		}
		return true
	})
	if err != nil {
		return err
	}
	return s.lookFiles(pid, vpid, seen)
}

// lookFiles adds the memory files that a process has open, mapped or not.
func (s *Set) lookFiles(pid, vpid int, seen map[key]*view) error {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, e := range entries {
		path := dir + "/" + e.Name()
		to, err := os.Readlink(path)
		if err == nil && to == "anon_inode:[io_uring]" {
			s.rings = true
		}
		if err != nil || !strings.HasPrefix(to, "/memfd:") {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return fmt.Errorf("list open files: %w", err)
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			continue // closed meanwhile
		}
		k := key{fmt.Sprintf("%02x:%02x", unix.Major(st.Dev), unix.Minor(st.Dev)), st.Ino}
		if s.devs[k.dev] {
			s.note(k, Handle{VPid: vpid, FD: fd}, seen, func() (*os.File, error) { return os.Open(path) })
		}
	}
	return nil
}

// note takes an object in; ok is false when it is not to be had any more.
func (s *Set) note(k key, h Handle, seen map[key]*view, open func() (*os.File, error)) (v *view, ok bool) {
	if v := seen[k]; v != nil {
		return v, true
	}
	if s.objects[k] == nil {
		f, err := open()
		if err != nil {
			return nil, false // unmapped or closed meanwhile: it comes up elsewhere, or not at all
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Ino != k.ino {
			f.Close() // another one, by now
			return nil, false
		}
		s.objects[k] = &Object{ID: k.ino, file: f}
	}
	v = &view{handle: h}
	seen[k] = v
	return v, true
}

// gone tells errors that come from a process that has ended.
func gone(err error) bool {
	return errors.Is(err, track.ErrGone) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// cover makes of windows that overlap some that do not, of the same extent.
func cover(list []Window) []Window {
	slices.SortFunc(list, func(a, b Window) int { return cmp.Compare(a.Offset, b.Offset) })
	var out []Window
	at := uint64(0)
	for _, w := range list {
		if skip := at - min(at, w.Offset); skip > 0 {
			if skip >= w.Len {
				continue
			}
			w.Offset, w.Addr, w.Len = w.Offset+skip, w.Addr+skip, w.Len-skip
		}
		out = append(out, w)
		at = w.Offset + w.Len
	}
	return out
}
