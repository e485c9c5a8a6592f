// Package gather reads the facts that package preflight judges: processes, their descriptors and mappings from /proc, sockets from
// the kernel's sock_diag, and what the host has. It changes nothing and stops nobody.
//
// It costs little more than listing /proc/*/fd: what can be told from a descriptor's link is told from that alone.
package gather

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"migrate/internal/preflight"
	"migrate/internal/track"
)

// Options name the container.
type Options struct {
	Init        int      // pid of its first process
	Pids        []int    // all of its processes
	Passed      []string // see preflight.Container
	Binds       []string
	GhostLimit  int64 // bytes
	LazyLimit   int64 // bytes
	Spec        preflight.Spec
	Leaving     []netip.Addr // see preflight.Container
	CloseTCP    bool
	EndSessions bool

	Memory func() int64 // bytes; costs a walk through all page tables, and is only asked if it may be above LazyLimit
}

// What may be chance is looked at again so often, and so far apart: processes that wait for a disk for a moment, connections that
// are just being accepted, messages that are just being read.
const (
	looks     = 10
	lookAgain = 100 * time.Millisecond
)

// Container gathers the facts of a container. Processes, descriptors and sockets that go away meanwhile are left out.
func Container(ctx context.Context, o Options) (*preflight.Container, error) {
	c := &preflight.Container{
		Init: o.Init, Passed: o.Passed, Binds: o.Binds, GhostLimit: o.GhostLimit, LazyLimit: o.LazyLimit, Spec: o.Spec,
		Leaving: o.Leaving, CloseTCP: o.CloseTCP, EndSessions: o.EndSessions,
		UID: os.Getuid(), Resource: capable(capSysResource),
	}
	c.Cgroup, _ = Cgroups()
	mounts, err := readMounts([]int{o.Init})
	if err != nil {
		return nil, fmt.Errorf("look at the container's mounts: %w", err)
	}
	if c.Procs, err = readProcesses(ctx, o.Pids, mounts); err != nil {
		return nil, fmt.Errorf("look at the container's processes: %w", err)
	}
	if !slices.ContainsFunc(c.Procs, func(p *preflight.Process) bool { return p.Pid == o.Init }) {
		return nil, fmt.Errorf("look at the container's processes: its first one, %d, is gone", o.Init)
	}
	if c.Mounts, err = readMounts(oneOfEach("mnt", c.Procs)); err != nil {
		return nil, fmt.Errorf("look at the container's mounts: %w", err)
	}
	if c.Sockets, err = readSockets(c.Procs); err != nil {
		return nil, fmt.Errorf("look at the container's sockets: %w", err)
	}
	if c.Leases, err = readLeases(); err != nil {
		return nil, fmt.Errorf("look at file leases: %w", err)
	}
	if err := findMappedLocks(c); err != nil {
		return nil, fmt.Errorf("look at file locks: %w", err)
	}
	if mayExceed(c.Procs, o.LazyLimit) {
		c.Memory = o.Memory()
	}
	findShared(c)
	lookBehindPipes(c)
	findZombies(c)
	return c, again(ctx, c)
}

// mayExceed says whether processes could have more memory than limit. What the kernel counts for each of them is not exact, and what they
// share counts for all: it is more than they have together.
func mayExceed(procs []*preflight.Process, limit int64) bool {
	const exactness = 2
	var sum int64
	for _, p := range procs {
		sum += p.Resident
	}
	return limit > 0 && sum > limit/exactness
}

// findShared finds processes that have their memory in common with their parents.
func findShared(c *preflight.Container) {
	known := known(c)
	for _, p := range c.Procs {
		if known[p.PPid] && track.SharesMemory(p.Pid, p.PPid) {
			p.Shares = p.PPid
		}
	}
}

// findZombies finds out which pidfds refer to processes that have ended and were not waited for: a cgroup does not list them, but
// CRIU restores them as well.
func findZombies(c *preflight.Container) {
	known := known(c)
	for _, p := range c.Procs {
		for i := range p.FDs {
			d := &p.FDs[i]
			if d.Target <= 0 || known[d.Target] {
				continue
			}
			z := &preflight.Process{Pid: d.Target}
			if newReader().refresh(z); z.State == 0 || z.State == 'Z' && known[z.PPid] {
				d.Target = -1
			}
		}
	}
}

// oneOfEach picks a process for each namespace of a type that there is in the container.
func oneOfEach(kind string, procs []*preflight.Process) (pids []int) {
	seen := map[uint64]bool{0: true}
	for _, p := range procs {
		if ns := p.Namespaces[kind]; !seen[ns] {
			seen[ns] = true
			pids = append(pids, p.Pid)
		}
	}
	return pids
}

// readProcesses reads all processes, a few at a time. mounts are those of the first one.
func readProcesses(ctx context.Context, pids []int, mounts map[uint64]*preflight.Mount) ([]*preflight.Process, error) {
	found := make([]*preflight.Process, len(pids))
	workers := min(runtime.NumCPU(), 4)
	var g errgroup.Group
	for w := range workers {
		g.Go(func() error {
			r := newReader()
			r.mounts = mounts
			for i := w; i < len(pids); i += workers {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				p, err := r.process(pids[i])
				if err != nil {
					return err
				}
				found[i] = p
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(p *preflight.Process) bool { return p == nil }), nil
}

// again looks until nothing is left that may be chance, and leaves what was there every time.
func again(ctx context.Context, c *preflight.Container) error {
	for i := range looks {
		// once is enough for those without a parent: it may just have ended, and they have another one then
		if !suspicious(c) && (i > 0 || !strangers(c)) {
			return nil
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := forget(c); err != nil {
			return err
		}
	}
	return nil
}

// strangers says whether there are processes whose parent is not of the container.
func strangers(c *preflight.Container) bool {
	known := known(c)
	return slices.ContainsFunc(c.Procs, func(p *preflight.Process) bool { return p.Pid != c.Init && !known[p.PPid] })
}

func known(c *preflight.Container) map[int]bool {
	pids := map[int]bool{}
	for _, p := range c.Procs {
		pids[p.Pid] = true
	}
	return pids
}

func suspicious(c *preflight.Container) bool {
	if slices.ContainsFunc(c.Procs, func(p *preflight.Process) bool { return p.State == 'D' || p.Shares != 0 }) {
		return true
	}
	for _, p := range c.Procs {
		for i := range p.FDs {
			if s := c.Sockets[linkInode(p.FDs[i].Link)]; s != nil && queued(s) {
				return true
			}
		}
	}
	return false
}

// forget takes out what is not there any more.
func forget(c *preflight.Container) error {
	there := known(c)
	for _, p := range c.Procs {
		if p.State == 'D' || !there[p.PPid] {
			newReader().refresh(p)
		}
		if p.Shares != 0 && !track.SharesMemory(p.Pid, p.Shares) {
			p.Shares = 0
		}
	}
	c.Procs = slices.DeleteFunc(c.Procs, func(p *preflight.Process) bool { return p.State == 0 && p.Pid != c.Init })
	later, err := readSockets(c.Procs)
	if err != nil {
		return fmt.Errorf("look at the container's sockets: %w", err)
	}
	for ino, s := range c.Sockets {
		if l := later[ino]; queued(s) && (l == nil || !queued(l)) {
			s.ReadQ, s.WriteQ = 0, 0
		}
	}
	return nil
}

// queued says whether a socket has in its queues what a dump cannot cope with: connections that wait to be accepted, messages of the
// kernel, and data on a unix socket that was not accepted yet.
func queued(s *preflight.Socket) bool {
	const listen = 10
	switch s.Family {
	case unix.AF_INET, unix.AF_INET6:
		return s.State == listen && s.ReadQ > 0
	case unix.AF_NETLINK:
		return s.ReadQ > 0
	case unix.AF_UNIX:
		return s.Peer == 0 && s.State != listen && s.WriteQ > 0
	}
	return false
}
