package preflight

// Sessions are the processes that came into the container by exec, each before its descendants. What came by exec has its parent
// outside; a process whose parent has ended belongs to the container's first one, or to a reaper in it.
func (c *Container) Sessions() (all []*Process) {
	children, known := map[int][]*Process{}, map[int]bool{}
	for _, p := range c.Procs {
		children[p.PPid] = append(children[p.PPid], p)
		known[p.Pid] = true
	}
	for _, p := range c.Procs {
		if p.Pid != c.Init && !known[p.PPid] {
			all = append(all, p)
		}
	}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i].Pid]...)
	}
	return all
}

// sessions judges them: they stand in the way, or are ended before the container stops. Those that are left alone are judged no
// further.
func (j *judgement) sessions() (judge []*Process) {
	ends := map[int]bool{}
	for _, p := range j.c.Sessions() {
		switch {
		case j.c.EndSessions:
			ends[p.Pid] = true
			j.add("exec-ended", p.thing(), "")
		case j.pids[p.PPid] == nil:
			j.add("exec-session", p.thing(), "")
		}
	}
	for _, p := range j.c.Procs {
		if !ends[p.Pid] {
			judge = append(judge, p)
		}
	}
	return judge
}
