package scenarios

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate/internal/report"
	"migrate/testbed"
)

// What becomes of a container whose daemon is killed and started again during its migration.
type fate string

const (
	moved  fate = "moved"                   // with its connections
	stayed fate = "stayed"                  // with its connections
	anew   fate = "anew at the source"      // ended by the daemon, and started by its restart policy
	taken  fate = "anew at the destination" // moved before that
	back   fate = "back at the source"      // it ran at the destination for a moment: its connections may be lost
)

// A crash is a daemon that is killed in some phase of a migration.
type crash struct {
	name string
	at   string // the host, a or b
	// during has the daemon killed and started again at its time, and lets the migration go on.
	during func(t *testing.T, c *crashed)
	live   fate // with live-restore
	dead   fate // without
	sample bool // part of every run, without live-restore
}

// crashed is a crash under way.
type crashed struct {
	crash
	*rig
	id   string
	host *testbed.Host
	to   *agent
	s    *subject
	m    *migration
}

var crashes = []crash{
	{"source-sync", "a", in(report.Sync), moved, anew, false},
	{"source-precopy", "a", in(report.Precopy), moved, anew, false},
	{"source-freeze", "a", in(report.Freeze), moved, anew, true},
	{"source-ship", "a", in(report.Ship), moved, moved, false},
	{"source-restore", "a", in(report.Restore), moved, moved, false},
	{"source-go", "a", atGo, moved, moved, false},
	{"source-committed", "a", awayAtGo, moved, moved, true},
	{"destination-sync", "b", in(report.Sync), moved, moved, false},
	{"destination-freeze", "b", in(report.Freeze), moved, moved, false},
	{"destination-restore", "b", in(report.Restore), stayed, stayed, true},
	{"destination-held", "b", atGo, stayed, stayed, false},
	{"destination-go", "b", deafAtGo, back, back, false},
	{"destination-committed", "b", onceCommitted, moved, taken, false},
}

// TestDockerCrash kills Docker's daemon, at either end and in each phase, and starts it again, with live-restore and without: the container
// runs at one place, under its name, with its restart policy, and with its connections unless the daemon has ended it.
func TestDockerCrash(t *testing.T) {
	t.Parallel() // beside others, but its own tests have the hosts one after another
	for _, c := range crashes {
		for _, live := range []bool{true, false} {
			if !allOnDocker() && (!c.sample || live) {
				continue
			}
			t.Run(fmt.Sprintf("%s/live-restore=%v", c.name, live), func(t *testing.T) { c.test(t, live) })
		}
	}
	t.Run("guard-alone", guardAlone)
}

func (c crash) test(t *testing.T, live bool) {
	r := dockCrash.rig(t)
	x := &crashed{crash: c, rig: r, id: fmt.Sprintf("crash-%s-%v", c.name, live), host: map[string]*testbed.Host{"a": r.a, "b": r.b}[c.at]}
	liveRestore(t, r, live)
	x.to = startAgent(t, r.b)
	c.during(t, x)
	want := c.dead
	if live {
		want = c.live
	}
	x.check(t, want)
	assertNothingUnderWay(t, r.b, x.to.dir)
}

// liveRestore sets what daemons do with running containers when they are started.
func liveRestore(t *testing.T, r *rig, on bool) {
	t.Helper()
	for _, h := range []*testbed.Host{r.a, r.b} {
		text := fmt.Sprintf(`{"experimental": true, "data-root": "/var/lib/docker", "log-driver": "json-file", "live-restore": %v}`, on)
		if err := os.WriteFile(h.Path("/etc/docker/daemon.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *crashed) kill(t *testing.T) { t.Helper(); c.killDaemon(t, c.host) }

func (c *crashed) revive(t *testing.T) { t.Helper(); c.startDaemon(t, c.host) }

// in crashes the daemon while the migration stays in a phase.
func in(phase string) func(*testing.T, *crashed) {
	return func(t *testing.T, c *crashed) {
		c.s, c.m = momentOf(phase).begin(t, c.rig, c.id, c.to)
		c.kill(t)
		c.revive(t)
	}
}

// atGo crashes it when GO is about to be given.
func atGo(t *testing.T, c *crashed) {
	c.s, c.m = beforeGo(t, c.rig, c.id, c.to)
	c.kill(t)
	c.revive(t)
	c.m.signal(t, syscall.SIGCONT)
}

// awayAtGo has it away from before GO until the container runs at the destination.
func awayAtGo(t *testing.T, c *crashed) {
	c.s, c.m = beforeGo(t, c.rig, c.id, c.to)
	c.kill(t)
	c.m.signal(t, syscall.SIGCONT)
	eventually(t, later, "the container runs at the destination", func() bool { return c.m.isPast(report.Handover) || c.m.ended() })
	c.s.progressing(t)
	c.revive(t)
}

// deafAtGo has it take in no word between GO and its end, so that it never knows that the container has run.
func deafAtGo(t *testing.T, c *crashed) {
	c.s, c.m = beforeGo(t, c.rig, c.id, c.to)
	pid := c.host.Daemons()["dockerd"]
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.m.signal(t, syscall.SIGCONT)
	eventually(t, later, "GO was given", func() bool { return c.m.isPast(report.Restore) })
	time.Sleep(2 * time.Second) // for the processes to run
	c.kill(t)
	c.revive(t)
}

// onceCommitted crashes it as soon as the container runs at the destination.
func onceCommitted(t *testing.T, c *crashed) {
	c.s = runServer(t, c.a, c.id, serverFlags{memory: 4, dirty: 20})
	c.m = send(t, c.a, c.id, c.to)
	eventually(t, later, "the container runs at the destination", func() bool { return c.m.isPast(report.Handover) || c.m.ended() })
	c.kill(t)
	c.revive(t)
}

// check looks where the container is in the end, and that it is nowhere else.
func (c *crashed) check(t *testing.T, want fate) {
	t.Helper()
	code := c.m.wait(t, later)
	t.Logf("exit status %d, %s\n%s", code, want, clip(c.m.stderr.String()))
	removeFault(t, c.id)
	at, not := c.a, c.b
	if want == moved || want == taken {
		at, not = c.b, c.a
	}
	if (code == 0) != (at == c.b) {
		t.Errorf("exit status %d where the container has %s\n%s", code, want, clip(c.m.stderr.String()))
	}
	if want != moved && want != stayed {
		c.s.client = nil // whose connection may be lost; it is killed at the test's end
	}
	eventually(t, soon, "the container runs", func() bool { return status(t, at, c.id) == "RUNNING" })
	time.Sleep(time.Second) // for what would start another one
	for h, runs := range map[*testbed.Host]bool{at: true, not: false} {
		if got := status(t, h, c.id); (got == "RUNNING") != runs {
			t.Errorf("%s: container %s is %q", h.Name, c.id, got)
		}
	}
	eventually(t, later, "its restart policy is back", func() bool {
		s := dockerInspect(t, at, c.id)
		return s != nil && s.HostConfig.RestartPolicy.Name == policyOf
	})
	c.s.progressing(t)
	assertUnlocked(t, at, c.id)
	assertNothingUnderWay(t, c.a, sendDir(c.id))
	assertPolicy(t, at, c.id)
	assertClean(t, not, c.id)
	if want == moved || want == stayed {
		assertOutputWhole(t, c.id, at)
	}
	if c.s.client == nil {
		c.s.connect(t)
	}
	c.s.finish(t)
}

// guardAlone kills the source's daemon, and then its agent, while the container stands still. Its guard lets it go on without the
// daemon, which finds it running, under its restart policy again, when it is back.
func guardAlone(t *testing.T) {
	r := dockCrash.rig(t)
	const id = "crash-guard"
	liveRestore(t, r, true)
	c := &crashed{rig: r, id: id, host: r.a, to: startAgent(t, r.b)}
	c.s, c.m = momentOf(report.Restore).begin(t, r, id, c.to)
	if s := dockerInspect(t, r.a, id); s == nil || s.HostConfig.RestartPolicy.Name != "no" {
		t.Errorf("the container stands still under the restart policy %+v", s)
	}
	c.kill(t)
	c.m.signal(t, syscall.SIGKILL)
	c.m.wait(t, soon)
	c.s.progressing(t)
	c.revive(t)
	eventually(t, later, "the daemon sees it as it is", func() bool { return status(t, r.a, id) == "RUNNING" })
	eventually(t, later, "its restart policy is back", func() bool {
		s := dockerInspect(t, r.a, id)
		return s != nil && s.HostConfig.RestartPolicy.Name == policyOf
	})
	c.s.progressing(t)
	assertClean(t, r.b, id)
	next := startAgent(t, r.b)
	removeFault(t, id)
	send(t, r.a, id, next, "--json").moved(t)
	c.s.assertMoved(t, r.a, r.b)
	c.s.finish(t)
}

// TestDockerReclaim kills agent and guard at once while the container stands still, and the container with them: the next agent of that host gives
// it back its restart policy, and starts it as Docker would have done.
func TestDockerReclaim(t *testing.T) {
	r := dock26.rig(t)
	t.Parallel()
	const id = "reclaimed"
	s, m := momentOf(report.Ship).begin(t, r, id, startAgent(t, r.b))
	m.signal(t, syscall.SIGSTOP) // or it would notice that its guard is gone
	shell(t, r.a, `for pid in $(pgrep -f "^/proc/self/exe guard .*$1"); do kill -9 "$pid"; done`, r.runtimeID(t, r.a, id))
	m.signal(t, syscall.SIGKILL)
	m.wait(t, soon)
	s.client = nil
	// the guard's end may have had runc resume it
	shell(t, r.a, `docker unpause "$1" || true; docker kill "$1"`, id)
	if got := dockerInspect(t, r.a, id); got.HostConfig.RestartPolicy.Name != "no" {
		t.Errorf("the restart policy is %q already", got.HostConfig.RestartPolicy.Name)
	}
	// as on a host that was started anew meanwhile
	run(t, r.a, "touch", "/run/docker.pid")
	p := start(t, r.a, "migrate", "recv", "--listen", ":7699", "--state-dir", sendDir(id)+"/state", "--run-dir", sendDir(id)+"/run", "--log-dir", sendDir(id)+"/log")
	eventually(t, later, "the container runs again", func() bool { return status(t, r.a, id) == "RUNNING" })
	eventually(t, soon, "its restart policy is back", func() bool {
		return dockerInspect(t, r.a, id).HostConfig.RestartPolicy.Name == policyOf
	})
	if !strings.Contains(p.stderr.String(), "started anew") {
		t.Errorf("the agent does not say so:\n%s", p.stderr.String())
	}
	assertPolicy(t, r.a, id)
}
