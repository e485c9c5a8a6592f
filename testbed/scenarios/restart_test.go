package scenarios

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate/testbed"
)

// revived starts a container that containerd starts again when it dies. Each start adds a line to a file that all hosts see.
func revived(t *testing.T, id string) (s *subject, starts func() int) {
	t.Helper()
	dir := hostDir(t, hostA, sharedDir+"/"+id)
	s = runContainer(t, hostA, testbed.ContainerSpec{
		ID: id, Image: "testbed/tools:latest", Flags: bind(dir, "/starts", "rw"),
		Args: []string{"sh", "-euc", "echo $$ >>/starts/all; exec workload server --listen= --memory-mib 1"},
	})
	t.Cleanup(func() { // or it would be started again while it is removed
		for _, h := range bed.Hosts() {
			_, _ = try(h, "ctr", "containers", "label", id, "containerd.io/restart.status=")
		}
		time.Sleep(monitorLooks)
	})
	eventually(t, soon, "the container prints", func() bool { return len(ticks(t, hostA, id)) > 1 })
	// as nerdctl sets them; from the start, a monitor that looks so often would start the container itself
	run(t, hostA, "ctr", "containers", "label", id, "containerd.io/restart.status=running", "containerd.io/restart.policy=always",
		"containerd.io/restart.loguri=file:///var/log/"+id+"-again.log")
	return s, func() int {
		text, err := os.ReadFile(hostA.Path(dir + "/all"))
		if err != nil {
			t.Error(err)
		}
		return strings.Count(string(text), "\n")
	}
}

// monitorLooks is good for some looks of the monitor, see testbed's configuration of containerd.
const monitorLooks = 500 * time.Millisecond

// TestRestartMonitor moves a container there and back that containerd starts again when it dies: it takes neither one that stands
// still for dead, nor the copy that is left at the source, and watches over the one at the destination.
func TestRestartMonitor(t *testing.T) {
	t.Parallel()
	const id = "monitored"
	s, starts := revived(t, id)
	agents := map[*testbed.Host]*agent{hostA: startAgent(t, hostA, "--allow-mount", sharedDir), hostB: startAgent(t, hostB, "--allow-mount", sharedDir)}
	once := func(what string) {
		t.Helper()
		time.Sleep(monitorLooks)
		if n := starts(); n != 1 {
			t.Fatalf("%s the container has been started %d times", what, n)
		}
	}
	once("at first")
	hit := fault(t, hostB, id, atRestore, `sleep 1; exit 1`)
	send(t, hostA, id, agents[hostB]).failed(t, 8, "runs on at the source")
	if !hit() {
		t.Error("CRIU was not made to fail")
	}
	removeFault(t, id)
	once("after a roll-back")
	s.assertStayed(t, hostA, hostB)
	watched(t, hostA, id)

	from := hostA
	for hop := range 4 {
		to := hostB
		if from == hostB {
			to = hostA
		}
		send(t, from, id, agents[to], "--json").moved(t)
		once(fmt.Sprintf("after hop %d", hop+1))
		s.assertMoved(t, from, to)
		watched(t, to, id)
		from = to
	}
	assertOutputWhole(t, id, from)
	// it is revived where it is, and nowhere else
	run(t, from, "kill", "-KILL", fmt.Sprint(initPid(t, from, id)))
	eventually(t, soon, "the container is started again", func() bool { return starts() == 2 && status(t, from, id) == "RUNNING" })
	assertClean(t, hostB, id)
}

// watched checks that the monitor sees the container, which has nothing else of ours.
func watched(t *testing.T, h *testbed.Host, id string) {
	t.Helper()
	info := run(t, h, "ctr", "containers", "info", id)
	if !strings.Contains(info, `"containerd.io/restart.status": "running"`) || strings.Contains(info, "migrate/") {
		t.Errorf("%s: the container's record is\n%s", h.Name, info)
	}
}

// TestRestartMonitorAgentDies kills the source's agent while the container stands still, and keeps the source's copy in a second
// migration: in neither case is there a second start.
func TestRestartMonitorAgentDies(t *testing.T) {
	t.Parallel()
	const id = "monitored-killed"
	s, starts := revived(t, id)
	to := startAgent(t, hostB, "--allow-mount", sharedDir)
	hit := fault(t, hostB, id, atRestore, `sleep 600`)
	m := send(t, hostA, id, to, "--json")
	eventually(t, later, "the restore has begun", hit)
	// one that the monitor does not see is not started either when this host starts anew
	for _, h := range []*testbed.Host{hostA, hostB} {
		if seen := run(t, h, "ctr", "containers", "ls", "-q", fmt.Sprintf(`id==%q,labels."containerd.io/restart.status"`, id)); strings.Contains(seen, id) {
			t.Errorf("%s: the restart monitor sees the container while it stands still:\n%s", h.Name, seen)
		}
	}
	m.signal(t, syscall.SIGKILL)
	m.wait(t, soon)
	eventually(t, later, "the container runs on", func() bool { return status(t, hostA, id) == "RUNNING" })
	removeFault(t, id)
	watched(t, hostA, id)
	eventually(t, later, "the destination has cleaned up", func() bool { return len(leftOf(hostB, id)) == 0 })
	send(t, hostA, id, to, "--json", "--keep-source").moved(t)
	time.Sleep(monitorLooks)
	if n := starts(); n != 1 {
		t.Errorf("the container has been started %d times", n)
	}
	if got := status(t, hostA, id); got == "RUNNING" {
		t.Error("the copy that was kept runs")
	}
	watched(t, hostB, id)
	assertOutputWhole(t, id, hostB)
	s.assertStayedHere(t, hostB)
}
