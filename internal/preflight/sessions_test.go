package preflight

import (
	"slices"
	"testing"
)

// TestSessions: what came by exec is told from what the container started itself, with all that descends from it.
func TestSessions(t *testing.T) {
	c := plain()
	for _, p := range []Process{
		{Pid: 101, PPid: 100}, {Pid: 102, PPid: 101},
		{Pid: 202, PPid: 201}, {Pid: 201, PPid: 77}, {Pid: 203, PPid: 202}, {Pid: 301, PPid: 77},
	} {
		p.VPid, p.Comm, p.State, p.Threads, p.Namespaces = p.Pid, "x", 'S', 1, namespaces(0)
		c.Procs = append(c.Procs, &p)
	}
	// a session's own affairs are nobody's who does not move
	c.Procs[3].FDs = []Descriptor{{FD: 0, Link: "anon_inode:[io_uring]"}}
	var pids []int
	for _, p := range c.Sessions() {
		pids = append(pids, p.Pid)
	}
	slices.Sort(pids)
	if !slices.Equal(pids, []int{201, 202, 203, 301}) {
		t.Errorf("sessions %v", pids)
	}
	codes := func() (all []string) {
		for _, f := range Judge(c) {
			all = append(all, f.Code)
		}
		slices.Sort(all)
		return all
	}
	if got := codes(); !slices.Equal(got, []string{"exec-session", "exec-session", "io-uring"}) {
		t.Errorf("found %v", got)
	}
	c.EndSessions = true
	if got := codes(); !slices.Equal(got, []string{"exec-ended", "exec-ended", "exec-ended", "exec-ended"}) {
		t.Errorf("found %v when they are ended", got)
	}
}
