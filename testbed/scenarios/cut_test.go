package scenarios

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"migrate/internal/report"
)

// A moment is a phase that a migration is made to stay in for a while, so that something can happen to it there.
type moment struct {
	phase string
	// prepare has the migration stay in the phase, and returns a function that tells when it is there.
	prepare func(t *testing.T, id string, to *agent) (there func(m *migration) bool)
	server  serverFlags
	flags   []string
}

// stay is how long CRIU is delayed, which is less than the shortest limit of the agents.
const stay = `sleep 8 3<&-`

// moments are all phases before GO.
var moments = []moment{
	{phase: report.Offer, prepare: func(t *testing.T, _ string, to *agent) func(*migration) bool {
		hit := fault(t, hostB, to.listen(), atVersion, stay)
		return func(*migration) bool { return hit() }
	}},
	{phase: report.Sync, server: serverFlags{files: 24 << 10}, flags: []string{"--bandwidth", "2MiB"}, prepare: after(report.Offer)},
	{phase: report.Freeze, prepare: func(t *testing.T, id string, _ *agent) func(*migration) bool {
		hit := fault(t, hostA, id, atDump, stayOnce(id))
		return func(m *migration) bool { return hit() }
	}},
	{phase: report.Precopy, server: serverFlags{memory: 32}, flags: []string{"--bandwidth", "3MiB"}, prepare: after(report.Sync)},
	{phase: report.Ship, server: serverFlags{memory: 32}, flags: []string{"--mode", "stop", "--bandwidth", "3MiB"}, prepare: after(report.Freeze)},
	{phase: report.Restore, prepare: func(t *testing.T, id string, _ *agent) func(*migration) bool {
		hit := fault(t, hostB, id, atRestore, stayOnce(id))
		return func(m *migration) bool { return hit() }
	}},
}

// stayOnce delays the first of the several CRIUs that runc starts.
func stayOnce(id string) string {
	mark := hitDir + "/" + id + ".stayed"
	return fmt.Sprintf("[ -e '%[1]s' ] || { : >'%[1]s'; %[2]s; }", mark, stay)
}

// after is for phases that are long by themselves: the migration is there once the phase before is over.
func after(phase string) func(*testing.T, string, *agent) func(*migration) bool {
	return func(*testing.T, string, *agent) func(*migration) bool {
		return func(m *migration) bool { return m.isPast(phase) }
	}
}

// begin starts a container and its migration, and returns when it is in the phase.
func (mo moment) begin(t *testing.T, id string, to *agent) (*subject, *migration) {
	t.Helper()
	f := mo.server
	f.memory = max(f.memory, 1)
	s := runServer(t, hostA, id, f)
	there := mo.prepare(t, id, to)
	m := send(t, hostA, id, to, mo.flags...)
	eventually(t, later, "the migration is in phase "+mo.phase, func() bool {
		if m.ended() {
			t.Fatalf("the migration ended before phase %s:\n%s", mo.phase, m.stderr.String())
		}
		return there(m)
	})
	time.Sleep(200 * time.Millisecond) // well into it
	logCRIU(t, hostA, m.dir)
	logCRIU(t, hostB, to.dir)
	if m.ended() || m.isPast(mo.phase) {
		t.Fatalf("the migration did not stay in phase %s:\n%s", mo.phase, m.stderr.String())
	}
	return s, m
}

// TestLinkCut cuts the destination off while migrations are in every phase before GO.
func TestLinkCut(t *testing.T) {
	var there, cut, over, healed sync.WaitGroup
	there.Add(len(moments))
	cut.Add(1)
	over.Add(len(moments))
	healed.Add(1)
	go func() {
		there.Wait()
		if err := hostB.Cut(); err != nil {
			t.Error(err)
		}
		cut.Done()
		over.Wait()
		if err := hostB.Heal(); err != nil {
			t.Error(err)
		}
		healed.Done()
	}()
	for _, mo := range moments {
		t.Run(mo.phase, func(t *testing.T) {
			t.Parallel()
			id := "cut-" + mo.phase
			started, ended := sync.OnceFunc(there.Done), sync.OnceFunc(over.Done)
			defer ended()
			defer started()
			to := startAgent(t, hostB)
			s, m := mo.begin(t, id, to)
			started()
			cut.Wait()
			m.failed(t, 6, "source", "runs on at the source")
			s.progressing(t) // while the link is still cut
			ended()
			healed.Wait()
			s.assertStayed(t, hostA, hostB)
			assertNothingUnderWay(t, hostB, to.dir)
			s.finish(t)
		})
	}
}

// TestInterrupt is Ctrl-C in every phase before GO.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	for _, mo := range moments {
		t.Run(mo.phase, func(t *testing.T) {
			t.Parallel()
			id := "interrupt-" + mo.phase
			to := startAgent(t, hostB)
			s, m := mo.begin(t, id, to)
			m.signal(t, syscall.SIGINT)
			m.failed(t, 130, "runs on at the source")
			s.assertStayed(t, hostA, hostB)
			assertNothingUnderWay(t, hostB, to.dir)
			s.finish(t)
		})
	}
}

// TestDestinationKilled kills the destination agent in every phase before GO. What it leaves is gone once it is started
// again.
func TestDestinationKilled(t *testing.T) {
	t.Parallel()
	for _, mo := range moments {
		t.Run(mo.phase, func(t *testing.T) {
			t.Parallel()
			id := "dkill-" + mo.phase
			to := startAgent(t, hostB)
			s, m := mo.begin(t, id, to)
			to.signal(t, syscall.SIGKILL)
			m.failed(t, 6, "source", "runs on at the source")
			s.progressing(t)
			to.wait(t, soon)
			to.start(t)
			s.assertStayed(t, hostA, hostB)
			assertNothingUnderWay(t, hostB, to.dir)
			s.finish(t)
		})
	}
}

// TestDestinationStopped stops the destination agent, as its service manager does, in every phase before GO.
func TestDestinationStopped(t *testing.T) {
	t.Parallel()
	for _, mo := range moments {
		t.Run(mo.phase, func(t *testing.T) {
			t.Parallel()
			id := "dstop-" + mo.phase
			to := startAgent(t, hostB)
			s, m := mo.begin(t, id, to)
			to.signal(t, syscall.SIGTERM)
			m.failed(t, 4, "stopped", "runs on at the source")
			if code := to.wait(t, later); code != 0 {
				t.Errorf("the destination agent ends with status %d\n%s", code, to.stderr.String())
			}
			s.assertStayed(t, hostA, hostB)
			assertNothingUnderWay(t, hostB, to.dir)
			s.finish(t)
		})
	}
}

// TestSourceKilled kills the source agent in every phase before GO. Its guard lets the container run on.
func TestSourceKilled(t *testing.T) {
	t.Parallel()
	for _, mo := range moments {
		t.Run(mo.phase, func(t *testing.T) {
			t.Parallel()
			id := "skill-" + mo.phase
			to := startAgent(t, hostB)
			s, m := mo.begin(t, id, to)
			m.signal(t, syscall.SIGKILL)
			m.wait(t, soon)
			eventually(t, later, "the container runs on", func() bool { return status(t, hostA, id) == "RUNNING" })
			s.progressing(t)
			// the next migration takes away what the killed one left, and moves the container
			next := startAgent(t, hostB)
			assertNothingUnderWay(t, hostB, to.dir)
			assertClean(t, hostB, id)
			removeFault(t, id)
			send(t, hostA, id, next, "--json").moved(t)
			s.assertMoved(t, hostA, hostB)
			s.finish(t)
		})
	}
}

// TestCRIUKilledInHold kills CRIU at the source while it holds the dumped container. Whatever becomes of the migration,
// one copy runs on.
func TestCRIUKilledInHold(t *testing.T) {
	t.Parallel()
	const id = "criu-killed"
	to := startAgent(t, hostB)
	var mo moment
	for _, mo = range moments {
		if mo.phase == report.Restore {
			break
		}
	}
	s, m := mo.begin(t, id, to)
	if out := shell(t, hostA, killCRIU, id); out == "" {
		t.Error("no CRIU was found to be killed")
	}
	code := m.wait(t, later)
	if code == 0 {
		s.assertMoved(t, hostA, hostB)
	} else {
		m.failed(t, 7, "runs on at the source")
		s.assertStayed(t, hostA, hostB)
	}
	assertNothingUnderWay(t, hostB, to.dir)
	s.finish(t)
}

// killCRIU kills the CRIU whose parent, a runtime, has the container's id as a word of its command line.
const killCRIU = `
for pid in $(pgrep -x criu); do
	# other CRIUs, of migrations beside this one, come and go
	parent=$(sed 's/.*) . \([0-9]*\) .*/\1/' /proc/$pid/stat 2>/dev/null) || continue
	if tr '\0' '\n' </proc/$parent/cmdline | grep -qx "$1"; then kill -9 $pid; echo $pid; fi
done`
