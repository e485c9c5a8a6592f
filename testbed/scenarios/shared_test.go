package scenarios

import (
	"strconv"
	"strings"
	"testing"

	"migrate/testbed"
)

// TestSharedMemory moves a program that writes shared memory all the time, there and back, in every way in which memory can move. What was
// anonymous is a memory file after the first move. Every page is compared before the program goes on, and by itself in the end.
func TestSharedMemory(t *testing.T) {
	t.Parallel()
	const mib = 16
	for _, c := range []struct{ kind, flags string }{
		{"shared", "--verify"}, {"memfd", "--verify --eager"}, {"sysv", "--verify --tracker hash"}, {"shared", "--mode hybrid"}, {"memfd", "--mode postcopy"}, {"sysv", "--mode stop"},
	} {
		t.Run(c.kind+" "+c.flags, func(t *testing.T) {
			t.Parallel()
			id := "shm-" + strings.NewReplacer(" ", "", "--", "-").Replace(c.kind+c.flags)
			s := runServer(t, hostA, id, serverFlags{memory: mib, dirty: 1000, kind: c.kind})
			for _, hop := range [][2]*testbed.Host{{hostA, hostB}, {hostB, hostA}} {
				to := startAgent(t, hop[1])
				rep := send(t, hop[0], id, to, append([]string{"--json"}, strings.Fields(c.flags)...)...).moved(t)
				if rep.Mode != "stop" && rep.Shared < mib<<20 {
					t.Errorf("%d bytes of shared memory", rep.Shared)
				}
				if strings.Contains(c.flags, "verify") && rep.Verified < mib<<8 {
					t.Errorf("%d pages were compared", rep.Verified)
				}
				var copied int64
				for _, r := range rep.Rounds {
					if !r.Frozen {
						copied += r.Pages
					}
				}
				if rep.Mode != "stop" && copied < mib<<8 {
					t.Errorf("%d pages were copied while the container ran", copied)
				}
				if n := accounted(t, hop[1], rep.Pid); n < mib<<20 {
					t.Errorf("%d bytes are accounted to the container", n)
				}
				s.assertMoved(t, hop[0], hop[1])
				assertNothingUnderWay(t, hop[1], to.dir)
			}
			s.finish(t) // it checks all memory
		})
	}
}

// accounted is what memory the container of a process takes, in bytes, as its control group has it.
func accounted(t *testing.T, h *testbed.Host, pid int) int64 {
	t.Helper()
	text := run(t, h, "sh", "-c", `
		group=$(sed -n 's/^[0-9]*:memory://p' /proc/`+strconv.Itoa(pid)+`/cgroup)
		cat "/sys/fs/cgroup/memory$group/memory.usage_in_bytes" 2>/dev/null || cat "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/`+strconv.Itoa(pid)+`/cgroup)/memory.current"`)
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDetachedSegment moves a container that has a segment of System V shared memory which no process has attached.
func TestDetachedSegment(t *testing.T) {
	t.Parallel()
	const id = "shm-detached"
	s := runServer(t, hostA, id, serverFlags{memory: 8})
	within := func(h *testbed.Host, pid int, argv ...string) string {
		return run(t, h, append([]string{"nsenter", "--ipc", "--target", strconv.Itoa(pid)}, argv...)...)
	}
	within(hostA, initPid(t, hostA, id), "ipcmk", "--shmem", "81920")
	to := startAgent(t, hostB)
	rep := send(t, hostA, id, to, "--json").moved(t)
	if said := within(hostB, rep.Pid, "ipcs", "--shmems"); !strings.Contains(said, " 81920 ") {
		t.Errorf("segments at the destination:\n%s", said)
	}
	s.assertMoved(t, hostA, hostB)
	s.finish(t)
	assertNothingUnderWay(t, hostB, to.dir)
}
