package scenarios

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate/internal/report"
)

// TestVerify moves a container that writes all the time, in every way in which memory can move, and has every page compared before the
// first instruction.
func TestVerify(t *testing.T) {
	t.Parallel()
	for _, tracker := range []string{"wp", "hash"} {
		for way, flags := range map[string][]string{"lazy": nil, "eager": {"--eager"}} {
			t.Run(tracker+" "+way, func(t *testing.T) {
				t.Parallel()
				id := "verify-" + tracker + "-" + way
				s := runServer(t, hostA, id, serverFlags{memory: 16, dirty: 2000})
				to := startAgent(t, hostB)
				rep := send(t, hostA, id, to, append([]string{"--json", "--verify", "--tracker", tracker}, flags...)...).moved(t)
				if rep.Tracker != tracker || rep.Verified < 16<<8 || (rep.Fill == nil) != (way == "eager") {
					t.Errorf("tracker %s, %d pages verified, fill %+v", rep.Tracker, rep.Verified, rep.Fill)
				}
				s.assertMoved(t, hostA, hostB)
				s.finish(t)
				assertNothingUnderWay(t, hostB, to.dir)
			})
		}
	}
}

// pagerOf finds the process that fills the memory of what an agent takes in.
func pagerOf(t *testing.T, to *agent) int {
	t.Helper()
	out := run(t, to.host, "pgrep", "-f", `^[^ ]* pager .*"role":"worker".*`+to.dir+`/`)
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		t.Fatalf("pagers of %s: %q", to.dir, out)
	}
	return pid
}

func killAt(t *testing.T, to *agent, pid int, sig string) {
	t.Helper()
	run(t, to.host, "kill", "-"+sig, strconv.Itoa(pid))
}

// TestPagerDies kills the pager of a container that runs and has hardly any of its memory. The container is ended, and both
// sides say so.
func TestPagerDies(t *testing.T) {
	t.Parallel()
	const id = "pager-dies"
	to := startAgent(t, hostB)
	s, m := beforeGo(t, onContainerd(), id, to)
	worker := pagerOf(t, to)
	killAt(t, to, worker, "STOP")
	m.signal(t, syscall.SIGCONT)
	eventually(t, later, "the container runs at the destination", func() bool { return m.isPast(report.Handover) || m.ended() })
	killAt(t, to, worker, "KILL")
	m.failed(t, 14, "was lost", "start container")
	eventually(t, soon, "the container was ended", func() bool { return status(t, hostB, id) != "RUNNING" })
	records, _ := filepath.Glob(hostB.Path(to.dir + "/log/*-fill.json"))
	if len(records) != 1 {
		t.Fatalf("records of the fill: %v", records)
	}
	text, err := os.ReadFile(records[0])
	if err != nil {
		t.Fatal(err)
	}
	var rec struct{ Result, Cause string }
	if err := json.Unmarshal(text, &rec); err != nil || rec.Result != "lost" || rec.Cause == "" {
		t.Errorf("the record is %s, %v", text, err)
	}
	assertClean(t, hostA, id)
	assertNothingUnderWay(t, hostB, to.dir)
	s.client.wait(t, later) // its connection was broken
	s.client = nil
}

// TestAgentDiesWhileFilling kills the destination's agent while memory is being filled in. The pager goes on alone.
func TestAgentDiesWhileFilling(t *testing.T) {
	t.Parallel()
	r := chosen(t)
	const id = "fill-alone"
	to := startAgent(t, r.b)
	s, m := beforeGo(t, r, id, to)
	worker := pagerOf(t, to)
	killAt(t, to, worker, "STOP")
	m.signal(t, syscall.SIGCONT)
	eventually(t, later, "the container runs at the destination", func() bool { return m.isPast(report.Handover) || m.ended() })
	to.signal(t, syscall.SIGKILL)
	time.Sleep(500 * time.Millisecond) // for what would end with it
	killAt(t, to, worker, "CONT")
	if code := m.wait(t, later); code != 0 {
		t.Errorf("exit status %d\n%s", code, m.stderr.String())
	}
	eventually(t, later, "the pager has ended", func() bool {
		_, err := os.Stat(r.b.Path(fmt.Sprintf("/proc/%d", worker)))
		return err != nil
	})
	s.progressing(t)
	to.wait(t, soon)
	to.start(t)
	s.assertMoved(t, r.a, r.b)
	assertNothingUnderWay(t, r.b, to.dir)
	s.finish(t) // it checks all memory
}

// TestStop moves memory while the container stands still.
func TestStop(t *testing.T) {
	t.Parallel()
	const id = "mode-stop"
	s := runServer(t, hostA, id, serverFlags{memory: 8, dirty: 500})
	to := startAgent(t, hostB)
	rep := send(t, hostA, id, to, "--json", "--mode", "stop").moved(t)
	checkReport(t, rep)
	if rep.Mode != "stop" || len(rep.Rounds) > 0 {
		t.Errorf("mode %s, rounds %+v", rep.Mode, rep.Rounds)
	}
	s.assertMoved(t, hostA, hostB)
	s.finish(t)
	assertNothingUnderWay(t, hostB, to.dir)
}
