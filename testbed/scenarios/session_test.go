package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"migrate/internal/preflight"
)

// TestExecSessions has sessions of exec ended right before the freeze: one that ends as it should, one that ignores it, one with a
// terminal and a child. What the container itself started goes on.
func TestExecSessions(t *testing.T) {
	t.Parallel()
	const id = "sessions"
	s := runServer(t, hostA, id, serverFlags{memory: 2, dirty: 50, script: "mkdir -p /data\n" + appending("/data/appended") + "\n"})
	to := startAgent(t, hostB)
	plain := start(t, hostA, "ctr", "tasks", "exec", "--exec-id", "plain", id, "sleep", "1001")
	stubborn := start(t, hostA, "ctr", "tasks", "exec", "--exec-id", "stubborn", id, "sh", "-c", "trap '' HUP; sleep 1002; :")
	terminal := start(t, hostA, "script", "-qfc", "ctr tasks exec --tty --exec-id terminal "+id+" sh -c 'sleep 1003; :'", "/dev/null")
	names := func() string {
		return shell(t, hostA, `ctr tasks ps "$1" | awk 'NR > 1 { print $1 }' | xargs -n1 -I{} cat /proc/{}/cmdline | tr "\\0" " "`, id)
	}
	eventually(t, soon, "the sessions are there", func() bool {
		all := names()
		return strings.Contains(all, "sleep 1001") && strings.Contains(all, "sleep 1002") && strings.Contains(all, "sleep 1003")
	})
	send(t, hostA, id, to).failed(t, 3, "exec-session", "--exec-sessions end", "never stopped")
	rep := check(t, hostA, 0, id, "--exec-sessions", "end")
	if f := finding(t, rep, "exec-ended"); f.Severity != preflight.Degrades || f.Thing.Pid == 0 {
		t.Errorf("%+v", f)
	}
	s.assertStayed(t, hostA, hostB)

	moved := send(t, hostA, id, to, "--json", "--exec-sessions", "end").moved(t)
	var ended []string
	for _, p := range moved.Ended {
		ended = append(ended, p.Comm)
	}
	slices.Sort(ended)
	if want := "[sh sh sleep sleep sleep]"; fmt.Sprint(ended) != want {
		t.Errorf("ended were %v, want %s", ended, want)
	}
	for _, session := range []*process{plain, stubborn, terminal} {
		session.wait(t, soon)
	}
	s.assertMoved(t, hostA, hostB)
	assertOutputWhole(t, id, hostB)
	assertAppending(t, rootOf(t, hostB, id)+"/data/appended")
	if out := run(t, hostB, "ctr", "tasks", "exec", "--exec-id", "again", id, "echo", "back"); out != "back" {
		t.Errorf("a session at the destination says %q", out)
	}
	s.finish(t)
	assertNothingUnderWay(t, hostB, to.dir)
}
