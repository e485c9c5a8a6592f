package preflight

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// supported are the anonymous descriptors that CRIU dumps (criu/files.c, dump_one_file).
var supported = []string{"eventfd", "eventpoll", "signalfd", "timerfd", "inotify", "fanotify", "pidfd", "bpf-map"}

// descriptor judges one open file by what it is.
func (j *judgement) descriptor(p *Process, d *Descriptor) {
	link := strings.TrimPrefix(d.Link, "anon_inode:")
	switch {
	case strings.HasPrefix(d.Link, "socket:["):
		j.socket(p, d)
	case strings.HasPrefix(d.Link, "pipe:["):
		j.pipe(p, d)
	case link == "[pidfd]" || strings.HasPrefix(d.Link, "pidfd:"):
		j.pidfd(p, d)
	case link != d.Link:
		j.anonymous(p, d, strings.Trim(link, "[]"))
	case strings.HasPrefix(d.Link, "/"):
		j.file(p, d)
	}
}

// anonymous judges descriptors without a path, by the kernel's name for their kind.
func (j *judgement) anonymous(p *Process, d *Descriptor, name string) {
	switch {
	case name == "io_uring":
		j.add("io-uring", p.at(d), "")
	case name == "inotify" || name == "fanotify":
		j.watches(p, d)
	case name == "bpf-map":
		if !slices.Contains(dumpableMaps, d.BPFType) {
			j.add("bpf-map", p.at(d), fmt.Sprintf("type %d", d.BPFType))
		}
	case !slices.Contains(supported, name):
		j.add("kernel-object", p.at(d), anonymousName(name))
	}
}

// dumpableMaps are the types of BPF maps that CRIU reads out: hash tables and arrays.
var dumpableMaps = []int{1, 2}

func anonymousName(name string) string {
	switch name {
	case "seccomp notify":
		return "it supervises another process's system calls (seccomp notification)"
	case "userfaultfd":
		return "it handles page faults (userfaultfd)"
	case "perf_event":
		return "it counts or samples events (perf)"
	case "landlock-ruleset":
		return "it is a Landlock rule set"
	}
	if strings.HasPrefix(name, "kvm") {
		return "it is a virtual machine (KVM)"
	}
	return name
}

// watches judges marks by the file system that they are on.
func (j *judgement) watches(p *Process, d *Descriptor) {
	for _, w := range d.Watches {
		if m := j.mountOf(w.Dev); m != nil && (m.Type == "overlay" || m.Type == "proc") {
			j.add("fsnotify", p.at(d), fmt.Sprintf("it watches something on %s, which is of type %s", m.Point, m.Type))
			return
		}
	}
}

func (j *judgement) mountOf(dev Dev) *Mount {
	for _, m := range j.c.Mounts {
		if m.Dev == dev {
			return m
		}
	}
	return nil
}

func (j *judgement) pidfd(p *Process, d *Descriptor) {
	switch {
	case d.Flags&unix.O_EXCL != 0: // PIDFD_THREAD
		j.add("pidfd-thread", p.at(d), "")
	case d.Target > 0 && j.pids[d.Target] == nil:
		j.add("pidfd-outside", p.at(d), fmt.Sprintf("process %d", d.Target))
	}
}

// ends says which ends of a pipe processes of the container have.
type ends struct{ read, write bool }

func (e *ends) note(flags int) {
	switch flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
		e.read = true
	case unix.O_WRONLY:
		e.write = true
	default:
		e.read, e.write = true, true
	}
}

func (j *judgement) pipe(p *Process, d *Descriptor) {
	if d.Flags&unix.O_DIRECT != 0 {
		j.add("pipe-packet", p.at(d), "")
	}
	e := j.pipes[d.Link]
	if e.read && e.write || d.Hangup || slices.Contains(j.c.Passed, d.Link) {
		return
	}
	j.add("pipe-outside", p.at(d), "")
}

// Major numbers of devices whose descriptors CRIU dumps, or looks further into (criu/files.c, dump_chrdev; criu/tty.c).
const (
	majorMem  = 1
	majorTTY  = 4
	majorTTYx = 5 // /dev/tty, /dev/console, /dev/ptmx
	majorMisc = 10
	majorPTM  = 128
	majorPTS  = 136
	minorTun  = 200
	minorAuto = 235
)

// file judges what has a path.
func (j *judgement) file(p *Process, d *Descriptor) {
	switch d.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		j.device(p, d)
	case unix.S_IFBLK:
		j.add("device", p.at(d), fmt.Sprintf("block device %d:%d", d.Dev.Major, d.Dev.Minor))
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFIFO, unix.S_IFLNK:
		j.place(p, d)
	}
}

func (j *judgement) device(p *Process, d *Descriptor) {
	switch d.Dev.Major {
	case majorMem:
		j.place(p, d)
	case majorTTY, majorTTYx:
		j.terminal(p, d)
	case majorMisc:
		if d.Dev.Minor == minorTun || d.Dev.Minor == minorAuto {
			return
		}
		fallthrough
	default:
		if d.Dev.Major >= majorPTM && d.Dev.Major < majorPTS+8 {
			j.terminal(p, d)
			return
		}
		j.add("device", p.at(d), fmt.Sprintf("character device %d:%d", d.Dev.Major, d.Dev.Minor))
	}
}

// terminal judges where a terminal comes from: those of the container are on its own devpts.
func (j *judgement) terminal(p *Process, d *Descriptor) {
	if j.c.Mounts[d.Mount] == nil {
		j.add("terminal-outside", p.at(d), "")
	}
}

// procDir is the directory of a process. What lies in it is no trouble.
var procDir = regexp.MustCompile(`/\d+$`)

// place judges where a file is. Memory files are on a mount of the kernel's own, which is in no list.
func (j *judgement) place(p *Process, d *Descriptor) {
	m := j.c.Mounts[d.Mount]
	switch {
	case strings.HasPrefix(d.Link, "/memfd:"), strings.HasPrefix(d.Link, "/dev/zero"), strings.HasPrefix(d.Link, "/SYSV"), strings.HasPrefix(d.Link, "/anon_hugepage"):
		return
	case strings.HasPrefix(d.Link, "/secretmem"):
		j.add("secret-memory", p.at(d), "")
	case m == nil:
		j.add("file-outside", p.at(d), "")
	case m.Type == "proc" && procDir.MatchString(d.Link):
		j.add("file-proc", p.at(d), "")
	case m.Hidden:
		j.add("file-hidden", p.at(d), "mounted over at "+m.Point)
	case d.Links == 0 && d.Mode&unix.S_IFMT == unix.S_IFREG && j.c.GhostLimit > 0 && d.Blocks*512 > j.c.GhostLimit:
		j.add("file-deleted-large", p.at(d), fmt.Sprintf("it has %d MiB, and %d MiB is the most", d.Blocks*512>>20, j.c.GhostLimit>>20))
	}
}

// lease judges a write lease: reading the file to send it breaks the lease, for which the kernel gives the program 45 seconds, also
// when it stands still.
func (j *judgement) lease(p *Process, ino uint64) {
	for i := range p.FDs {
		if d := &p.FDs[i]; d.Inode == ino {
			j.add("lease", p.at(d), "")
			return
		}
	}
	j.add("lease", p.thing(), fmt.Sprintf("of the file with inode %d", ino))
}

// mapping judges memory that is backed by something else than files and plain memory.
func (j *judgement) mapping(p *Process, m *Mapping) {
	t := p.thing()
	t.Path = m.Path
	where := fmt.Sprintf("mapped at %#x", m.Start)
	switch {
	case m.Path == "[uprobes]":
		j.add("uprobe", t, "")
	case m.Path == "anon_inode:[io_uring]":
		j.add("io-uring", t, where)
	case strings.HasPrefix(m.Path, "/secretmem"):
		j.add("secret-memory", t, where)
	case strings.HasPrefix(m.Path, "anon_inode:"):
		j.add("mapping", t, where)
	case strings.HasPrefix(m.Path, "/dev/"):
		j.add("device", t, where)
	}
}

// inode parses links like "socket:[123]".
func inode(link, prefix string) (uint64, bool) {
	s, ok := strings.CutPrefix(link, prefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return n, err == nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
