package scenarios

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate/testbed"
)

// serving starts a migration over a link that is slow enough for memory to stay at the source for some seconds, and returns once the
// container runs at the destination and the source knows.
func serving(t *testing.T, r *rig, id string, to *agent, f serverFlags, flags ...string) (*subject, *migration) {
	t.Helper()
	s := runServer(t, r.a, id, f)
	m := send(t, r.a, id, to, append([]string{"--mode", "postcopy", "--bandwidth", "2MiB"}, flags...)...)
	eventually(t, later, "the source serves memory", func() bool {
		notes, _ := filepath.Glob(r.a.Path(sendDir(id) + "/run/*.given"))
		return len(notes) == 1 || m.ended()
	})
	if m.ended() {
		t.Fatalf("the migration ended:\n%s", clip(m.stderr.String()))
	}
	return s, m
}

// TestMemoryComesLater moves programs that check their memory, and write it all the time, in both modes in which memory stays at the
// source at first, there and back.
func TestMemoryComesLater(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"postcopy", "hybrid"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			id := "later-" + mode
			s := runServer(t, hostA, id, serverFlags{memory: 32, dirty: 3000})
			for _, hop := range []struct{ from, to *testbed.Host }{{hostA, hostB}, {hostB, hostA}} {
				to := startAgent(t, hop.to)
				rep := send(t, hop.from, id, to, "--json", "--mode", mode).moved(t)
				checkReport(t, rep)
				if rep.Fetch == nil || rep.Fill == nil || rep.Risk == "" || rep.Mode != mode || (rep.Tracker != "") != (mode == "hybrid") {
					t.Errorf("report %+v, fetch %+v", rep, rep.Fetch)
				}
				if mode == "postcopy" && rep.Fetch.Pages < 32<<8 {
					t.Errorf("%d pages stayed at the source", rep.Fetch.Pages)
				}
				s.assertMoved(t, hop.from, hop.to)
				assertNothingUnderWay(t, hop.to, to.dir)
				s.examine(t)
			}
			s.finish(t)
		})
	}
}

// TestTortureLater is a sample of programs that are hard on their memory, whose pages come while they are at it.
func TestTortureLater(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]string{"mapchurn": "postcopy", "forktree": "postcopy", "dontneed": "hybrid", "random-writers": "hybrid", "threads": "postcopy"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := runChurned(t, "torture-later-"+name, name)
			to := startAgent(t, hostB)
			rep := send(t, hostA, s.id, to, "--json", "--mode", mode, "--bandwidth", "20MiB").moved(t)
			own := s.verify(t, hostB, rep.Pid)
			s.assertMoved(t, hostA, hostB)
			assertNothingUnderWay(t, hostB, to.dir)
			t.Logf("%d pages stayed, %d waited for, %d checked by the program", rep.Fetch.Pages, rep.Fetch.Asked, own)
		})
	}
}

// TestCutWhileServing cuts the link for a while that a connection survives, and for one that it does not. The container waits, and
// goes on.
func TestCutWhileServing(t *testing.T) {
	r := chosen(t)
	const short, long = "served-short", "served-long"
	to := map[string]*agent{short: startAgent(t, r.b), long: startAgent(t, r.b)}
	subjects, moves := map[string]*subject{}, map[string]*migration{}
	for _, id := range []string{short, long} {
		subjects[id], moves[id] = serving(t, r, id, to[id], serverFlags{memory: 16, dirty: 500}, "--json")
	}
	// one of the two loses its connections at once, as by a router that has forgotten them
	if err := r.b.Cut(); err != nil {
		t.Fatal(err)
	}
	shell(t, r.a, `ss -K dst :$1`, fmt.Sprint(to[long].port))
	time.Sleep(5 * time.Second)
	if err := r.b.Heal(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{short, long} {
		rep := moves[id].moved(t)
		if rep.Fetch == nil {
			t.Fatalf("%s: no fetch in the report", id)
		}
		t.Logf("%s: %+v", id, rep.Fetch)
		subjects[id].assertMoved(t, r.a, r.b)
		assertNothingUnderWay(t, r.b, to[id].dir)
		subjects[id].finish(t)
	}
	if rep := moves[long].report(t); rep.Fetch.Reconnects == 0 {
		t.Error("the connections were killed, and nobody reconnected")
	} else if text := moves[long].stderr.String(); !strings.Contains(text, "paused: the link is lost") {
		t.Errorf("it does not say that it waited:\n%s", text)
	}
}

// lostAt checks that a destination has ended a container, and has left a record of why.
func lostAt(t *testing.T, to *agent, id string) {
	t.Helper()
	if dockOf(to.host) == nil { // Docker starts it anew, as its restart policy says
		eventually(t, later, "the container was ended", func() bool { return status(t, to.host, id) != "RUNNING" })
	}
	var records []string
	eventually(t, later, "the pager has left a record", func() bool {
		records, _ = filepath.Glob(to.host.Path(to.dir + "/log/*-fill.json"))
		return len(records) == 1
	})
	text, err := os.ReadFile(records[0])
	if err != nil {
		t.Fatal(err)
	}
	var rec struct{ Result, Cause string }
	if err := json.Unmarshal(text, &rec); err != nil || rec.Result != "lost" || rec.Cause == "" {
		t.Errorf("the record is %s, %v", text, err)
	}
}

// TestSourceKilledWhileServing kills the source agent while the container's memory is still with it. The container is ended, and what is
// frozen at the source stays frozen, whoever tries.
func TestSourceKilledWhileServing(t *testing.T) {
	t.Parallel()
	r := chosen(t)
	const id = "serve-skill"
	to := startAgent(t, r.b)
	s, m := serving(t, r, id, to, serverFlags{memory: 32, dirty: 20}, "--recover-timeout", "3s")
	m.signal(t, syscall.SIGKILL)
	m.wait(t, soon)
	lostAt(t, to, id)
	eventually(t, soon, "the agent says so", func() bool { return strings.Contains(to.stderr.String(), "code=lost") })
	time.Sleep(2 * time.Second) // for a guard that would do wrong
	if got := status(t, r.a, id); got != "PAUSED" {
		t.Errorf("the container is %q at the source", got)
	}
	if out, err := try(r.a, "migrate", "thaw", id, "--yes", "--run-dir", sendDir(id)+"/run", "--state-dir", sendDir(id)+"/state"); err == nil || !strings.Contains(out, "handed over") {
		t.Errorf("thaw: %v\n%s", err, out)
	}
	send(t, r.a, id, to).failed(t, 3, "handed over", "delete it here")
	if got := status(t, r.a, id); got != "PAUSED" {
		t.Errorf("the container is %q at the source after that", got)
	}
	assertNothingUnderWay(t, r.b, to.dir)
	s.client.wait(t, later) // its connection was broken
	s.client = nil
	r.purgeAt(t, r.a, id)
}

// TestDestinationKilledWhileServing kills the destination agent while memory is still at the source. The pager ends the container, and the
// next agent says so.
func TestDestinationKilledWhileServing(t *testing.T) {
	t.Parallel()
	r := chosen(t)
	const id = "serve-dkill"
	to := startAgent(t, r.b)
	s, m := serving(t, r, id, to, serverFlags{memory: 32, dirty: 20})
	to.signal(t, syscall.SIGKILL)
	to.wait(t, soon)
	lostAt(t, to, id)
	to.start(t)
	m.failed(t, 14, "was lost", "start container", "kept stopped")
	if got := status(t, r.a, id); got == "RUNNING" || got == "PAUSED" {
		t.Errorf("the container is %q at the source", got)
	}
	assertNothingUnderWay(t, r.b, to.dir)
	s.client.wait(t, later)
	s.client = nil
	r.purgeAt(t, r.a, id)
}

// TestDestinationStoppedWhileServing stops the destination agent as its service manager does: it stays until all memory has come, and
// lets a source come back whose connections break meanwhile.
func TestDestinationStoppedWhileServing(t *testing.T) {
	t.Parallel()
	r := chosen(t)
	const id = "serve-dstop"
	to := startAgent(t, r.b)
	s, m := serving(t, r, id, to, serverFlags{memory: 16, dirty: 20}, "--json")
	to.signal(t, syscall.SIGTERM)
	eventually(t, soon, "the agent is stopping", func() bool { return strings.Contains(to.stderr.String(), "stopping") })
	shell(t, r.a, `ss -K dst :$1`, fmt.Sprint(to.port))
	rep := m.moved(t)
	if rep.Fetch == nil || rep.Fetch.Reconnects < 1 { // ss may meet a connection of the next session, too
		t.Errorf("fetch %+v", rep.Fetch)
	}
	if code := to.wait(t, later); code != 0 {
		t.Errorf("the agent ends with status %d\n%s", code, to.stderr.String())
	}
	s.assertMoved(t, r.a, r.b)
	assertNothingUnderWay(t, r.b, to.dir)
	s.finish(t)
}

// TestInterruptWhileServing is Ctrl-C: the first changes nothing, the second gives the container up.
func TestInterruptWhileServing(t *testing.T) {
	t.Parallel()
	r := chosen(t)
	const id = "serve-int"
	to := startAgent(t, r.b)
	s, m := serving(t, r, id, to, serverFlags{memory: 32, dirty: 20})
	m.signal(t, syscall.SIGINT)
	eventually(t, soon, "it warns", func() bool { return strings.Contains(m.stderr.String(), "a second signal gives it up") })
	s.progressing(t)
	m.signal(t, syscall.SIGINT)
	m.failed(t, 14, "by hand")
	lostAt(t, to, id)
	assertNothingUnderWay(t, r.b, to.dir)
	s.client.wait(t, later)
	s.client = nil
	r.purgeAt(t, r.a, id)
}
