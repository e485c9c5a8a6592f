package scenarios

import (
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"migrate/internal/report"
	"migrate/testbed"
)

// A moment is a phase that a migration is made to stay in for a while, so that something can happen to it there.
type moment struct {
	phase string
	// prepare has the migration stay in the phase, and returns a function that tells when it is there.
	prepare func(t *testing.T, r *rig, id string, to *agent) (there func(m *migration) bool)
	server  serverFlags
	flags   []string
}

// stay is how long CRIU is delayed, which is less than the shortest limit of the agents.
const stay = `sleep 8 3<&-`

// moments are all phases before GO.
var moments = []moment{
	{phase: report.Offer, prepare: func(t *testing.T, r *rig, _ string, to *agent) func(*migration) bool {
		hit := fault(t, r.b, to.listen(), atVersion, stay)
		return func(*migration) bool { return hit() }
	}},
	{phase: report.Sync, server: serverFlags{files: 24 << 10}, flags: []string{"--bandwidth", "2MiB"}, prepare: after(report.Offer)},
	{phase: report.Freeze, prepare: func(t *testing.T, r *rig, id string, _ *agent) func(*migration) bool {
		hit := fault(t, r.a, id, atDump, stayOnce(id))
		return func(m *migration) bool { return hit() }
	}},
	{phase: report.Precopy, server: serverFlags{memory: 32}, flags: []string{"--bandwidth", "3MiB"}, prepare: after(report.Sync)},
	{phase: report.Ship, server: serverFlags{memory: 32}, flags: []string{"--mode", "stop", "--bandwidth", "3MiB"}, prepare: after(report.Freeze)},
	{phase: report.Restore, prepare: func(t *testing.T, r *rig, id string, _ *agent) func(*migration) bool {
		hit := fault(t, r.b, id, atRestore, stayOnce(id))
		return func(m *migration) bool { return hit() }
	}},
}

// stayOnce delays the first of the several CRIUs that runc starts.
func stayOnce(id string) string {
	mark := hitDir + "/" + id + ".stayed"
	return fmt.Sprintf("[ -e '%[1]s' ] || { : >'%[1]s'; %[2]s; }", mark, stay)
}

// after is for phases that are long by themselves: the migration is there once the phase before is over.
func after(phase string) func(*testing.T, *rig, string, *agent) func(*migration) bool {
	return func(*testing.T, *rig, string, *agent) func(*migration) bool {
		return func(m *migration) bool { return m.isPast(phase) }
	}
}

// begin starts a container and its migration, and returns when it is in the phase.
func (mo moment) begin(t *testing.T, r *rig, id string, to *agent) (*subject, *migration) {
	t.Helper()
	f := mo.server
	f.memory = max(f.memory, 1)
	s := runServer(t, r.a, id, f)
	there := mo.prepare(t, r, id, to)
	m := send(t, r.a, id, to, mo.flags...)
	eventually(t, later, "the migration is in phase "+mo.phase, func() bool {
		if m.ended() {
			t.Fatalf("the migration ended before phase %s:\n%s", mo.phase, m.stderr.String())
		}
		return there(m)
	})
	time.Sleep(200 * time.Millisecond) // well into it
	logCRIU(t, r.a, m.dir)
	logCRIU(t, r.b, to.dir)
	if m.ended() || m.isPast(mo.phase) {
		t.Fatalf("the migration did not stay in phase %s:\n%s", mo.phase, m.stderr.String())
	}
	return s, m
}

// TestLinkCut cuts the destination off while migrations are in every phase before GO.
func TestLinkCut(t *testing.T) {
	r := chosen(t)
	var there, cut, over, healed sync.WaitGroup
	there.Add(len(moments))
	cut.Add(1)
	over.Add(len(moments))
	healed.Add(1)
	go func() {
		there.Wait()
		if err := r.b.Cut(); err != nil {
			t.Error(err)
		}
		cut.Done()
		over.Wait()
		if err := r.b.Heal(); err != nil {
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
			to := startAgent(t, r.b)
			s, m := mo.begin(t, r, id, to)
			started()
			cut.Wait()
			m.failed(t, 6, "source", "runs on at the source")
			s.progressing(t) // while the link is still cut
			ended()
			healed.Wait()
			s.assertStayed(t, r.a, r.b)
			assertNothingUnderWay(t, r.b, to.dir)
			s.finish(t)
		})
	}
}

// eachMoment runs a test in every phase before GO.
func eachMoment(t *testing.T, r *rig, test func(*testing.T, *rig, moment)) {
	for _, mo := range moments {
		t.Run(mo.phase, func(t *testing.T) {
			t.Parallel()
			test(t, r, mo)
		})
	}
}

// momentOf is the phase of that name.
func momentOf(phase string) moment {
	return moments[slices.IndexFunc(moments, func(mo moment) bool { return mo.phase == phase })]
}

// TestInterrupt is Ctrl-C in every phase before GO.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	eachMoment(t, chosen(t), interrupt)
}

func interrupt(t *testing.T, r *rig, mo moment) {
	id := "interrupt-" + mo.phase
	to := startAgent(t, r.b)
	s, m := mo.begin(t, r, id, to)
	m.signal(t, syscall.SIGINT)
	m.failed(t, 130, "runs on at the source")
	s.assertStayed(t, r.a, r.b)
	assertNothingUnderWay(t, r.b, to.dir)
	s.finish(t)
}

// TestDestinationKilled kills the destination agent in every phase before GO. What it leaves is gone once it is started
// again.
func TestDestinationKilled(t *testing.T) {
	t.Parallel()
	eachMoment(t, chosen(t), destinationKilled)
}

func destinationKilled(t *testing.T, r *rig, mo moment) {
	id := "dkill-" + mo.phase
	to := startAgent(t, r.b)
	s, m := mo.begin(t, r, id, to)
	to.signal(t, syscall.SIGKILL)
	m.failed(t, 6, "source", "runs on at the source")
	s.progressing(t)
	to.wait(t, soon)
	to.start(t)
	s.assertStayed(t, r.a, r.b)
	assertNothingUnderWay(t, r.b, to.dir)
	s.finish(t)
}

// TestDestinationStopped stops the destination agent, as its service manager does, in every phase before GO.
func TestDestinationStopped(t *testing.T) {
	t.Parallel()
	eachMoment(t, chosen(t), destinationStopped)
}

func destinationStopped(t *testing.T, r *rig, mo moment) {
	id := "dstop-" + mo.phase
	to := startAgent(t, r.b)
	s, m := mo.begin(t, r, id, to)
	to.signal(t, syscall.SIGTERM)
	m.failed(t, 4, "stopped", "runs on at the source")
	if code := to.wait(t, later); code != 0 {
		t.Errorf("the destination agent ends with status %d\n%s", code, to.stderr.String())
	}
	s.assertStayed(t, r.a, r.b)
	assertNothingUnderWay(t, r.b, to.dir)
	s.finish(t)
}

// TestSourceKilled kills the source agent in every phase before GO. Its guard lets the container run on.
func TestSourceKilled(t *testing.T) {
	t.Parallel()
	eachMoment(t, chosen(t), sourceKilled)
}

func sourceKilled(t *testing.T, r *rig, mo moment) {
	id := "skill-" + mo.phase
	to := startAgent(t, r.b)
	s, m := mo.begin(t, r, id, to)
	m.signal(t, syscall.SIGKILL)
	m.wait(t, soon)
	eventually(t, later, "the container runs on", func() bool { return status(t, r.a, id) == "RUNNING" })
	s.progressing(t)
	// the next migration takes away what the killed one left, and moves the container
	next := startAgent(t, r.b)
	assertNothingUnderWay(t, r.b, to.dir)
	assertClean(t, r.b, id)
	removeFault(t, id)
	send(t, r.a, id, next, "--json").moved(t)
	s.assertMoved(t, r.a, r.b)
	s.finish(t)
}

// TestCRIUKilledInHold kills CRIU at the source while it holds the dumped container. Whatever becomes of the migration,
// one copy runs on.
func TestCRIUKilledInHold(t *testing.T) {
	t.Parallel()
	criuKilledInHold(t, chosen(t))
}

func criuKilledInHold(t *testing.T, r *rig) {
	const id = "criu-killed"
	to := startAgent(t, r.b)
	s, m := momentOf(report.Restore).begin(t, r, id, to)
	if out := shell(t, r.a, killCRIU, r.runtimeID(t, r.a, id)); out == "" {
		t.Error("no CRIU was found to be killed")
	}
	code := m.wait(t, later)
	if code == 0 {
		s.assertMoved(t, r.a, r.b)
	} else {
		m.failed(t, 7, "runs on at the source")
		s.assertStayed(t, r.a, r.b)
	}
	assertNothingUnderWay(t, r.b, to.dir)
	s.finish(t)
}

// killCRIU kills the CRIU whose parent, a runtime, has the container's id as a word of its command line.
const killCRIU = `
for pid in $(pgrep -x criu); do
	# other CRIUs, of migrations beside this one, come and go
	parent=$(sed 's/.*) . \([0-9]*\) .*/\1/' /proc/$pid/stat 2>/dev/null) || continue
	if tr '\0' '\n' </proc/$parent/cmdline | grep -qx "$1"; then kill -9 $pid; echo $pid; fi
done`

// TestSpawning moves a container whose shells start programs all the while: between vfork and exec none of them could be dumped.
func TestSpawning(t *testing.T) {
	t.Parallel()
	const id = "spawning"
	s := runServer(t, hostA, id, serverFlags{memory: 1, script: "for i in 1 2 3 4; do (while :; do /bin/true; done) & done\n"})
	agents := map[*testbed.Host]*agent{hostA: startAgent(t, hostA), hostB: startAgent(t, hostB)}
	from, to := hostA, hostB
	for range 4 {
		send(t, from, id, agents[to], "--json").moved(t)
		s.assertMoved(t, from, to)
		from, to = to, from
	}
	s.finish(t)
}
