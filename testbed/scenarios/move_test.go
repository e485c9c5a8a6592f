package scenarios

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/testbed"
)

// TestMoveRedis is the main job: redis under write load is moved, and its client notices nothing but a gap.
func TestMoveRedis(t *testing.T) {
	t.Parallel()
	const id = "redis-main"
	s := runContainer(t, hostA, testbed.ContainerSpec{ID: id, Image: "testbed/redis:latest", Network: testbed.NetworkCNI})
	log := "/tmp/acked-" + id
	writer := start(t, hostC, "sh", "-c", `until redis-cli -h "$1" ping >/dev/null 2>&1; do sleep 0.05; done
		exec workload rediswrite --addr "$1:6379" --log "$2" --duration 0 --timeout 60s`, "sh", s.addr, log)
	keys := func() string { return run(t, hostC, "redis-cli", "-h", s.addr, "dbsize") }
	eventually(t, soon, "redis has keys", func() bool { return len(keys()) >= 3 })

	to := startAgent(t, hostB)
	rep := send(t, hostA, id, to, "--json").moved(t)
	checkReport(t, rep)
	if rep.Connections < 1 {
		t.Errorf("%d connections moved, the writer had one", rep.Connections)
	}
	before := keys()
	eventually(t, soon, "redis takes writes at the destination", func() bool { return keys() != before })
	if code := signalled(t, writer); code != 0 {
		t.Errorf("the writer ends with status %d\n%s", code, writer.stderr.String())
	}
	var wrote clientResult
	if err := json.Unmarshal([]byte(writer.stdout.String()), &wrote); err != nil {
		t.Fatalf("the writer's report: %v\n%s", err, writer.stdout.String())
	}
	t.Logf("downtime %.0f ms, the client's longest gap %.0f ms, %d writes", rep.DowntimeMS, wrote.LongestGapMS, wrote.Acknowledged)
	if out, err := try(hostC, "workload", "redisverify", "--addr", s.addr+":6379", "--log", log); err != nil {
		t.Errorf("redis at the destination: %v\n%s", err, out)
	}
	s.assertMoved(t, hostA, hostB)
	assertNothingUnderWay(t, hostB, to.dir)
	if got := status(t, hostB, id); got != "RUNNING" {
		t.Errorf("redis is %q at the destination", got)
	}
	if pid := initPid(t, hostB, id); pid != rep.Pid {
		t.Errorf("redis has the pid %d, the report says %d", pid, rep.Pid)
	}
}

// signalled ends a process with SIGINT and returns its exit status.
func signalled(t *testing.T, p *process) int {
	t.Helper()
	p.signal(t, syscall.SIGINT)
	return p.wait(t, later)
}

// checkReport holds the report of a migration that succeeded against itself.
func checkReport(t *testing.T, rep *report.Report) {
	t.Helper()
	if rep.Version != report.Version || rep.Result != report.Moved || rep.Error != nil {
		t.Errorf("version %d, result %q, error %v", rep.Version, rep.Result, rep.Error)
	}
	var names []string
	sum := 0.0
	for _, p := range rep.Phases {
		names = append(names, p.Name)
		sum += p.MS
	}
	want := []string{report.Offer, report.Sync, report.Precopy, report.Freeze, report.Ship, report.Restore, report.Handover, report.Finish}
	if !proto.Rounds(rep.Mode) {
		want = slices.DeleteFunc(want, func(phase string) bool { return phase == report.Precopy })
	}
	if proto.Stays(rep.Mode) {
		want = slices.Insert(want, len(want)-1, report.Serve)
	}
	if !slices.Equal(names, want) {
		t.Errorf("phases %v, want %v", names, want)
	}
	if rep.DowntimeMS <= 0 || rep.DowntimeMS > rep.TotalMS || sum > rep.TotalMS*1.01+1 {
		t.Errorf("downtime %v ms, phases %v ms, total %v ms", rep.DowntimeMS, sum, rep.TotalMS)
	}
	parts := 0.0
	for _, p := range rep.Downtime {
		parts += p.MS
		if p.MS < 0 {
			t.Errorf("downtime part %s of %v ms", p.Name, p.MS)
		}
	}
	if diff := parts - rep.DowntimeMS; diff > 1 || diff < -1 {
		t.Errorf("the parts of the downtime add up to %v ms, it is %v ms", parts, rep.DowntimeMS)
	}
	if rep.Memory.Raw <= 0 || rep.Memory.Wire <= 0 || rep.WireBytes < rep.Memory.Wire+rep.Files.Wire+rep.Image.Wire {
		t.Errorf("memory %+v, files %+v, image %+v, wire %d", rep.Memory, rep.Files, rep.Image, rep.WireBytes)
	}
	if rep.Mode == proto.ModePrecopy && (rep.Fill == nil || rep.Tracker == "" || len(rep.Rounds) < 3) {
		t.Errorf("mode %s: tracker %q, rounds %+v, fill %+v", rep.Mode, rep.Tracker, rep.Rounds, rep.Fill)
	}
	if rep.Pid <= 0 || rep.ID == "" {
		t.Errorf("pid %d, id %q", rep.Pid, rep.ID)
	}
}

// TestHops moves one container to and fro.
func TestHops(t *testing.T) {
	t.Parallel()
	const id = "hops"
	s := runServer(t, hostA, id, serverFlags{memory: 8, dirty: 500})
	agents := map[*testbed.Host]*agent{hostA: startAgent(t, hostA), hostB: startAgent(t, hostB)}
	from := hostA
	for hop := range 3 {
		to := hostB
		if from == hostB {
			to = hostA
		}
		checkReport(t, send(t, from, id, agents[to], "--json").moved(t))
		s.assertMoved(t, from, to)
		assertOutputWhole(t, id, to)
		assertNothingUnderWay(t, to, agents[to].dir)
		if t.Failed() {
			t.Fatalf("hop %d from %s to %s", hop+1, from.Name, to.Name)
		}
		from = to
	}
	s.finish(t)
}

// TestTenAtOnce moves ten containers side by side through one destination agent.
func TestTenAtOnce(t *testing.T) {
	t.Parallel()
	to := startAgent(t, hostB)
	var subjects []*subject
	for i := range 10 {
		subjects = append(subjects, runServer(t, hostA, fmt.Sprintf("ten-%d", i), serverFlags{memory: 4, dirty: 100}))
	}
	var under []*migration
	for _, s := range subjects {
		under = append(under, send(t, hostA, s.id, to, "--json"))
	}
	for i, m := range under {
		rep := m.moved(t)
		checkReport(t, rep)
		if rep.Container != subjects[i].id || rep.Name != subjects[i].id {
			t.Errorf("container %q moved as %q, not %q", rep.Container, rep.Name, subjects[i].id)
		}
	}
	for _, s := range subjects {
		s.assertMoved(t, hostA, hostB)
		assertOutputWhole(t, s.id, hostB)
		s.finish(t)
	}
	assertNothingUnderWay(t, hostB, to.dir)
}

// TestSSH moves through ssh, with an agent that is started for it.
func TestSSH(t *testing.T) {
	t.Parallel()
	const id = "by-ssh"
	s := runServer(t, hostA, id, serverFlags{memory: 8, dirty: 100})
	dir := "/run/scn/recv-" + id
	remote := fmt.Sprintf("migrate recv --stdio --state-dir %[1]s/state --run-dir %[1]s/run --log-dir %[1]s/log", dir)
	rep := sendTo(t, hostA, id, "ssh://root@b", "--json", "--remote-command", remote).moved(t)
	checkReport(t, rep)
	s.assertMoved(t, hostA, hostB)
	assertOutputWhole(t, id, hostB)
	s.finish(t)
	assertNothingUnderWay(t, hostB, dir)
	eventually(t, soon, "the agent has ended", func() bool { _, err := try(hostB, "pgrep", "-f", "recv --stdio.*"+id); return err != nil })
}

// TestSummary checks what a person sees.
func TestSummary(t *testing.T) {
	t.Parallel()
	const id = "summary"
	s := runServer(t, hostA, id, serverFlags{memory: 1})
	m := send(t, hostA, id, startAgent(t, hostB))
	if code := m.wait(t, later); code != 0 {
		t.Fatalf("exit status %d\n%s", code, m.stderr.String())
	}
	for _, phase := range []string{"offer", "sync", "precopy", "freeze", "ship", "restore", "handover", "finish"} {
		if !m.isPast(phase) {
			t.Errorf("no progress line of %s:\n%s", phase, m.stderr.String())
		}
	}
	for _, word := range []string{"downtime", "memory", "files", "image"} {
		if !strings.Contains(strings.ToLower(m.stdout.String()), word) {
			t.Errorf("the summary does not tell %s:\n%s", word, m.stdout.String())
		}
	}
	s.assertMoved(t, hostA, hostB)
	s.finish(t)
	time.Sleep(settle)
}
