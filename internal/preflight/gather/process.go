package gather

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"migrate/internal/preflight"
)

// reader reads processes, one after another, into the same buffers.
type reader struct {
	buf   []byte
	link  [unix.PathMax]byte
	names []string
	dir   int // of the process that is being read
	fds   int // its directory of descriptors

	mounts map[uint64]*preflight.Mount // on which files are ordinary
	last   *preflight.Process          // that was read before
	nsIDs  [len(namespaceTypes)]uint64
	ns     map[string]uint64 // the same by type
}

func newReader() *reader { return &reader{buf: make([]byte, 64<<10)} }

// gone says whether an error means that there is nothing to be read any more.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBADF)
}

// process reads one process; nil when it has ended.
func (r *reader) process(pid int) (*preflight.Process, error) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open /proc/%d: %w", pid, err)
	}
	defer unix.Close(dir)
	r.dir = dir
	p := &preflight.Process{Pid: pid}
	defer func() { r.last = p }()
	for _, read := range []func(*preflight.Process) error{r.status, r.namespaces, r.maps, r.descriptors} {
		if err := read(p); gone(err) {
			if p.State == 0 {
				return nil, nil
			}
			continue // a zombie has none of these
		} else if err != nil {
			return nil, fmt.Errorf("read /proc/%d: %w", pid, err)
		}
	}
	return p, nil
}

// refresh reads the state of a process anew.
func (r *reader) refresh(p *preflight.Process) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	if err != nil {
		p.State = 0
		return
	}
	parseStatus(p, text)
}

// read reads a file of the process. What it returns is valid until the next call.
func (r *reader) read(name string) ([]byte, error) {
	fd, err := unix.Openat(r.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for n := 0; ; {
		if n == len(r.buf) {
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
		m, err := unix.Read(fd, r.buf[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n += m; m == 0 {
			return r.buf[:n], nil
		}
	}
}

// readlink reads a link. What it returns is valid until the next call.
func (r *reader) readlink(dir int, name string) ([]byte, error) {
	n, err := unix.Readlinkat(dir, name, r.link[:])
	return r.link[:max(n, 0)], err
}

func (r *reader) status(p *preflight.Process) error {
	text, err := r.read("status")
	if err != nil {
		return err
	}
	parseStatus(p, text)
	return nil
}

func parseStatus(p *preflight.Process, text []byte) {
	p.Resident = 0
	for line := range bytes.Lines(text) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(":\t"))
		switch string(name) {
		case "Name":
			p.Comm = string(value)
		case "State":
			p.State = value[0]
		case "PPid":
			p.PPid = number(value)
		case "TracerPid":
			if p.Tracer = number(value); p.Tracer == os.Getpid() {
				p.Tracer = 0 // this agent, which follows what is written
			}
		case "Uid":
			p.UID = number(value)
		case "NSpid":
			ids := bytes.Fields(value)
			p.VPid = number(ids[len(ids)-1])
		case "Threads":
			p.Threads = number(value)
		case "RssAnon", "RssShmem", "VmSwap", "HugetlbPages":
			p.Resident += kilobytes(value)
		}
	}
}

// number is the first word of b as a number.
func number(b []byte) int {
	word, _, _ := bytes.Cut(b, []byte("\t"))
	n, _ := strconv.Atoi(string(word))
	return n
}

// kilobytes reads "   123 kB" as bytes.
func kilobytes(b []byte) int64 {
	n, _ := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(b, []byte(" kB")))), 10, 64)
	return n << 10
}

// types of namespaces, as /proc/PID/ns names them.
var namespaceTypes = [...]string{"pid", "mnt", "net", "ipc", "uts", "user", "cgroup", "time"}

func (r *reader) namespaces(p *preflight.Process) error {
	dir, err := unix.Openat(r.dir, "ns", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	var ids [len(namespaceTypes)]uint64
	for i, kind := range namespaceTypes {
		link, err := r.readlink(dir, kind)
		if gone(err) {
			continue // older kernels have no time namespaces
		}
		if err != nil {
			return err
		}
		ids[i] = linkInode(string(link))
	}
	if r.ns == nil || ids != r.nsIDs { // most processes have the same as the one before
		r.nsIDs, r.ns = ids, make(map[string]uint64, len(ids))
		for i, kind := range namespaceTypes {
			if ids[i] != 0 {
				r.ns[kind] = ids[i]
			}
		}
	}
	p.Namespaces = r.ns
	return nil
}

// linkInode is the number in links like "net:[123]".
func linkInode(link string) uint64 {
	_, s, _ := strings.Cut(link, ":[")
	n, _ := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return n
}

// unusual is what a mapping's path may begin with that is worth a look.
var unusual = [][]byte{[]byte(" anon_inode:"), []byte(" /dev/"), []byte(" /secretmem"), []byte(" [uprobes]")}

func (r *reader) maps(p *preflight.Process) error {
	text, err := r.read("maps")
	if err != nil {
		return err
	}
	var found []preflight.Mapping
	var ranges []string
	for _, prefix := range unusual {
		for rest := text; ; {
			at := bytes.Index(rest, prefix)
			if at < 0 {
				break
			}
			begin := bytes.LastIndexByte(rest[:at], '\n') + 1
			end := at + bytes.IndexByte(rest[at:], '\n')
			span, _, _ := bytes.Cut(rest[begin:at], []byte(" "))
			first, _, _ := bytes.Cut(span, []byte("-"))
			start, _ := strconv.ParseUint(string(first), 16, 64)
			found = append(found, preflight.Mapping{Start: start, Path: string(rest[at+1 : end])})
			ranges = append(ranges, string(span))
			rest = rest[end:]
		}
	}
	for i, m := range found {
		if !strings.HasPrefix(m.Path, "/dev/") || r.isDevice(ranges[i]) {
			p.Maps = append(p.Maps, m)
		}
	}
	return nil
}

// isDevice says whether a mapping of something below /dev is of a device that is not just zeros: below /dev are also files in
// memory.
func (r *reader) isDevice(span string) bool {
	var st unix.Stat_t
	if err := unix.Fstatat(r.dir, "map_files/"+span, &st, 0); err != nil {
		return false
	}
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev != unix.Mkdev(1, 5)
}

func (r *reader) descriptors(p *preflight.Process) error {
	fd, err := unix.Openat(r.dir, "fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r.fds = fd
	if err := r.list(fd); err != nil {
		return err
	}
	p.FDs = make([]preflight.Descriptor, 0, len(r.names))
	before := inherited{last: r.last, patience: 3}
	for _, name := range r.names {
		n, err := strconv.Atoi(name)
		if err != nil {
			return err
		}
		if d := before.same(p.Pid, n); d != nil {
			p.FDs = append(p.FDs, *d)
			continue
		}
		d, err := r.descriptor(name)
		if gone(err) {
			continue // it was closed meanwhile
		}
		if err != nil {
			return fmt.Errorf("descriptor %s: %w", name, err)
		}
		d.FD = n
		p.FDs = append(p.FDs, d)
	}
	return nil
}

// list reads the names in a directory.
func (r *reader) list(dir int) error {
	r.names = r.names[:0]
	for {
		n, err := unix.ReadDirent(dir, r.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		_, _, r.names = unix.ParseDirent(r.buf[:n], -1, r.names)
	}
}

func (r *reader) descriptor(name string) (d preflight.Descriptor, err error) {
	if err := r.stat(&d, name); err != nil {
		return d, err
	}
	if r.ordinary(&d) {
		return d, nil
	}
	link, err := r.readlink(r.fds, name)
	if err != nil {
		return d, err
	}
	d.Link = string(link)
	switch {
	case strings.HasPrefix(d.Link, "pipe:"), strings.HasPrefix(d.Link, "pidfd:"), hasDetails(d.Link):
		return d, r.details(&d, "fdinfo/"+name)
	}
	return d, nil
}

// inherited finds descriptors that a process has in common with the one that was read before it: most processes have some of their
// parent's, and to compare two descriptors is much cheaper than to look at one.
type inherited struct {
	last   *preflight.Process
	at     int // where in its descriptors
	misses int // since the last hit

	// patience is how many misses there may be: the standard streams may be others, and what a process opened itself comes after what it
	// inherited.
	patience int
}

// same is what is known of the descriptor with a number already, nil if nothing is. The numbers must be ascending.
func (i *inherited) same(pid, fd int) *preflight.Descriptor {
	if i.last == nil || i.misses > i.patience {
		return nil
	}
	known := i.last.FDs
	for i.at < len(known) && known[i.at].FD < fd {
		i.at++
	}
	if i.at == len(known) || known[i.at].FD != fd || !sameFile(pid, i.last.Pid, fd) {
		i.misses++
		return nil
	}
	i.misses, i.patience = 0, 1
	return &known[i.at]
}

// sameFile asks the kernel whether two processes share an open file under the same number.
func sameFile(a, b, fd int) bool {
	const file = 0
	same, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), file, uintptr(fd), uintptr(fd), 0)
	return errno == 0 && same == 0
}

// ordinary says whether a descriptor is one of those that nothing can be wrong with, or that all is known of: most are.
func (r *reader) ordinary(d *preflight.Descriptor) bool {
	if d.Mode&unix.S_IFMT == unix.S_IFSOCK {
		d.Link = "socket:[" + strconv.FormatUint(d.Inode, 10) + "]"
		return true
	}
	m := r.mounts[d.Mount]
	if m == nil || m.Hidden || m.Type == "proc" || d.Links == 0 {
		return false
	}
	switch d.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFIFO:
		return true
	case unix.S_IFCHR:
		return d.Dev.Major == 1 // memory devices, such as null
	}
	return false
}

func hasDetails(link string) bool {
	switch link {
	case "anon_inode:inotify", "anon_inode:[fanotify]", "anon_inode:[pidfd]", "anon_inode:bpf-map", "anon_inode:fanotify":
		return true
	}
	return false
}

// stat finds out what is behind a path without asking a file server.
func (r *reader) stat(d *preflight.Descriptor, name string) error {
	var st unix.Statx_t
	const want = unix.STATX_TYPE | unix.STATX_MODE | unix.STATX_NLINK | unix.STATX_INO | unix.STATX_BLOCKS | unix.STATX_MNT_ID
	if err := unix.Statx(r.fds, name, unix.AT_STATX_DONT_SYNC, want, &st); err != nil {
		return err
	}
	d.Mount, d.Mode, d.Inode, d.Blocks, d.Links = st.Mnt_id, uint32(st.Mode), st.Ino, int64(st.Blocks), st.Nlink
	d.Dev = preflight.Dev{Major: st.Rdev_major, Minor: st.Rdev_minor}
	return nil
}

// details reads what /proc/PID/fdinfo says of a descriptor.
func (r *reader) details(d *preflight.Descriptor, name string) error {
	text, err := r.read(name)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(text) {
		key, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		word := string(bytes.TrimSpace(value))
		switch {
		case string(key) == "flags":
			flags, _ := strconv.ParseInt(word, 8, 64)
			d.Flags = int(flags)
		case string(key) == "Pid":
			d.Target, _ = strconv.Atoi(word)
		case string(key) == "map_type":
			d.BPFType, _ = strconv.Atoi(word)
		case bytes.HasPrefix(key, []byte("inotify")), bytes.HasPrefix(key, []byte("fanotify")):
			if w, ok := parseWatch(string(line)); ok {
				d.Watches = append(d.Watches, w)
			}
		}
	}
	return nil
}

// parseWatch reads the device out of "inotify wd:1 ino:2d7 sdev:800013 mask:800afce …"; it is major and minor in the kernel's own
// form, 20 bits of minor.
func parseWatch(line string) (preflight.Watch, bool) {
	for word := range strings.FieldsSeq(line) {
		if s, ok := strings.CutPrefix(word, "sdev:"); ok {
			dev, err := strconv.ParseUint(s, 16, 32)
			return preflight.Watch{Dev: preflight.Dev{Major: uint32(dev >> 20), Minor: uint32(dev & (1<<20 - 1))}}, err == nil
		}
	}
	return preflight.Watch{}, false
}

// procPath is a file of a process.
func procPath(pid int, name string) string { return path.Join("/proc", strconv.Itoa(pid), name) }
