package gather

import "migrate/internal/preflight"

// Sessions are the processes among pids that came into the container by exec, and their descendants. init is its first process.
func Sessions(init int, pids []int) []*preflight.Process {
	c, r := &preflight.Container{Init: init}, newReader()
	for _, pid := range pids {
		p := &preflight.Process{Pid: pid}
		if r.refresh(p); p.State != 0 {
			c.Procs = append(c.Procs, p)
		}
	}
	return c.Sessions()
}
