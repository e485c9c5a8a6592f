package preflight

import (
	"fmt"
	"slices"
	"strings"
)

// judgement is one look at a container.
type judgement struct {
	*list
	c    *Container
	pids map[int]*Process
	own  map[uint64]bool // inodes of sockets that a process of the container has
	// inodes of unix sockets that wait to be accepted by a process of the container
	waiting map[uint64]bool
	pipes   map[string]ends // by link, of all pipes
}

// Judge finds what stands in the way of moving a container that its own host knows of.
func Judge(c *Container) []Finding {
	j := &judgement{list: newList(Source, StillRunning), c: c, pids: map[int]*Process{}, own: map[uint64]bool{}, waiting: map[uint64]bool{}, pipes: map[string]ends{}}
	for _, p := range c.Procs {
		j.pids[p.Pid] = p
		for i := range p.FDs {
			j.index(&p.FDs[i])
		}
	}
	for ino, s := range c.Sockets {
		for _, w := range s.Waiting {
			j.waiting[w] = j.waiting[w] || j.own[ino]
		}
	}
	j.spec()
	for _, p := range j.sessions() {
		j.process(p)
	}
	j.mounts()
	j.wholes()
	return j.findings()
}

func (j *judgement) index(d *Descriptor) {
	if ino, ok := inode(d.Link, "socket:["); ok {
		j.own[ino] = true
	}
	if strings.HasPrefix(d.Link, "pipe:[") {
		e := j.pipes[d.Link]
		e.note(d.Flags)
		j.pipes[d.Link] = e
	}
}

// spec judges how the container was made.
func (j *judgement) spec() {
	s := &j.c.Spec
	for _, kind := range sortedKeys(s.Joined) {
		if kind != "network" {
			j.add("shared-namespace", Thing{Path: s.Joined[kind]}, "the "+kind+" namespace is another one's")
		}
	}
	for _, kind := range []string{"pid", "mount", "ipc", "uts"} {
		if !slices.Contains(s.Own, kind) {
			j.add("shared-namespace", Thing{}, "the "+kind+" namespace is the host's")
		}
	}
	if s.UserMapping || slices.Contains(s.Own, "user") {
		j.add("user-namespace", Thing{}, "")
	}
	if s.Notify {
		j.add("seccomp-notify", Thing{}, "")
	}
}

// process judges one process and all that it has.
func (j *judgement) process(p *Process) {
	j.state(p)
	j.namespaces(p)
	for i := range p.FDs {
		j.descriptor(p, &p.FDs[i])
	}
	for i := range p.Maps {
		j.mapping(p, &p.Maps[i])
	}
	for _, ino := range j.c.Leases[p.Pid] {
		j.lease(p, ino)
	}
	for _, path := range p.Locked {
		t := p.thing()
		t.Path = path
		j.add("lock-mapped", t, "")
	}
}

// state judges what the process is doing.
func (j *judgement) state(p *Process) {
	switch {
	case p.Tracer != 0:
		t := fmt.Sprintf("by process %d", p.Tracer)
		if by := j.pids[p.Tracer]; by != nil {
			t += " (" + by.Comm + "), in the container itself"
		}
		j.add("traced", p.thing(), t)
	case p.Shares != 0:
		j.add("vfork", p.thing(), fmt.Sprintf("with process %d", p.Shares))
	case p.State == 'Z' && p.Threads > 1:
		j.add("zombie-threads", p.thing(), "")
	case p.State == 'T' && j.c.Cgroup == 1:
		j.add("stopped", p.thing(), "")
	case p.State == 'D':
		j.add("uninterruptible", p.thing(), "")
	}
}

// nestable are the types of namespaces that CRIU dumps also when a process has one of its own.
var nestable = []string{"mnt", "net"}

func (j *judgement) namespaces(p *Process) {
	first := j.pids[j.c.Init]
	if first == nil || p == first {
		return
	}
	for _, kind := range sortedKeys(p.Namespaces) {
		// one that has just ended has none any more
		if id, own := first.Namespaces[kind], p.Namespaces[kind]; id != 0 && own != 0 && id != own && !slices.Contains(nestable, kind) {
			j.add("nested-namespace", p.thing(), "the "+kind+" namespace")
		}
	}
}

// knownTypes are the file systems that CRIU mounts anew (criu/filesystems.c).
var knownTypes = []string{
	"proc", "sysfs", "devtmpfs", "binfmt_misc", "debugfs", "tracefs", "cgroup", "cgroup2", "aufs", "tmpfs", "devpts", "simfs", "btrfs",
	"pstore", "securityfs", "fusectl", "hugetlbfs", "overlay", "autofs", "mqueue",
}

// mounts judges what was mounted beyond what the runtime declared: only for that CRIU has to know how.
func (j *judgement) mounts() {
	for _, id := range sortedKeys(j.c.Mounts) {
		m := j.c.Mounts[id]
		if m.Point == "/" || slices.Contains(knownTypes, m.Type) || slices.ContainsFunc(j.c.Binds, func(dest string) bool {
			return m.Point == dest || strings.HasPrefix(m.Point, strings.TrimSuffix(dest, "/")+"/")
		}) {
			continue
		}
		j.add("mount-type", Thing{Path: m.Point}, "it is of type "+m.Type)
	}
}

// wholes judges what is about the container as a whole.
func (j *judgement) wholes() {
	if j.c.LazyLimit > 0 && j.c.Memory > j.c.LazyLimit {
		j.add("open-files", Thing{}, fmt.Sprintf("the container has %d MiB, and the limit is good for %d MiB", j.c.Memory>>20, j.c.LazyLimit>>20))
	}
	if j.c.Resource {
		return
	}
	for _, p := range j.c.Procs {
		if p.UID != j.c.UID {
			j.add("cap-sys-resource", p.thing(), fmt.Sprintf("it runs as user %d", p.UID))
		}
	}
}
