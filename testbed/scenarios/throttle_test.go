package scenarios

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"migrate/internal/report"
	"migrate/testbed"
)

// throttled are the flags of a migration over a slow link that slows the container down. Nothing else holds it back.
var throttled = []string{"--throttle", "--bandwidth", "200mbit", "--cpu-limit", "none"}

// stormy is a server that rewrites all of its memory several times a second, faster than the link could take it. Both engines have the flags.
func stormy(t *testing.T, r *rig, id string, flags ...string) *subject {
	t.Helper()
	const server = "exec workload server --listen=:7000 --memory-mib 16 --compressible 0 --dirty-pages-per-sec 40000"
	var s *subject
	if r.dock != nil {
		s = runDocked(t, r.dock, r.a, id, server, r.dock.newAddress(), flags...)
	} else {
		s = runContainer(t, r.a, testbed.ContainerSpec{
			ID: id, Image: "testbed/tools:latest", Network: testbed.NetworkCNI, Flags: flags, Args: []string{"sh", "-c", server},
		})
	}
	eventually(t, soon, "the container prints", func() bool { return len(ticks(t, r.a, id)) > 1 })
	s.addr += ":7000"
	s.connect(t)
	return s
}

// cpuLimit is what limits the container's CPU time, as its control group has it; empty where it has none, or is gone.
func cpuLimit(t *testing.T, h *testbed.Host, id string) string {
	t.Helper()
	group := "default/" + id
	if dockOf(h) != nil {
		full, err := try(h, "docker", "inspect", "--format", "{{.Id}}", id)
		if err != nil {
			return ""
		}
		group = "docker/" + strings.TrimSpace(full)
	}
	return strings.TrimSpace(run(t, h, "sh", "-c", `
		for f in /sys/fs/cgroup/cpu/"$1"/cpu.cfs_quota_us /sys/fs/cgroup/cpu,cpuacct/"$1"/cpu.cfs_quota_us /sys/fs/cgroup/"$1"/cpu.max; do
			if [ -e "$f" ]; then cat "$f"; exit; fi
		done`, "sh", group))
}

// limitOrSkip is the cpuLimit of a container that was just started.
func limitOrSkip(t *testing.T, h *testbed.Host, id string) string {
	t.Helper()
	limit := cpuLimit(t, h, id)
	if limit == "" {
		t.Skip("SKIPPED: no CPU time can be limited here")
	}
	return limit
}

// TestThrottle moves a container that cannot be moved within the downtime without being slowed down, and one that has a limit of its
// own already.
func TestThrottle(t *testing.T) {
	t.Parallel()
	r := chosen(t)
	for name, flags := range map[string][]string{"no-limit": nil, "limit": {"--cpu-period", "100000", "--cpu-quota", "60000"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := "throttle-" + name
			s := stormy(t, r, id, flags...)
			limit := limitOrSkip(t, r.a, id)
			to := startAgent(t, r.b)
			rep := send(t, r.a, id, to, append([]string{"--json"}, throttled...)...).moved(t)
			assertThrottled(t, rep)
			if got := cpuLimit(t, r.b, id); got != limit {
				t.Errorf("the limit is %q at the destination, and was %q", got, limit)
			}
			s.assertMoved(t, r.a, r.b)
			s.finish(t)
		})
	}
}

// assertThrottled checks that the container was slowed down step by step until the rest fitted, and not when it stood still. On a host
// that is too busy to fill the link there may be nothing more to take away before it fits.
func assertThrottled(t *testing.T, rep *report.Report) {
	t.Helper()
	var steps []int
	last := ""
	for _, r := range rep.Rounds {
		if r.Frozen && r.Throttle != 0 {
			t.Errorf("slowed down when it stood still: %+v", r)
		}
		if !r.Frozen && (len(steps) == 0 || steps[len(steps)-1] != r.Throttle) {
			steps = append(steps, r.Throttle)
		}
		if r.Decision != "" && r.Decision != "last" {
			last = r.Decision
		}
	}
	const most = 99
	if len(steps) < 2 || steps[0] != 0 || steps[1] != 20 || !slices.IsSorted(steps) || last != "fits" && steps[len(steps)-1] != most {
		t.Errorf("slowed down by %v percent, and then %q:\n%+v", steps, last, rep.Rounds)
	}
}

// TestThrottleTakenBack ends migrations of a container that is slowed down, in two ways. It runs on as it did before.
func TestThrottleTakenBack(t *testing.T) {
	t.Parallel()
	r := chosen(t)
	for name, c := range map[string]struct {
		flags []string
		sig   syscall.Signal
	}{
		"interrupt":       {nil, syscall.SIGINT},
		"interrupt-limit": {[]string{"--cpu-period", "50000", "--cpu-quota", "40000"}, syscall.SIGINT},
		"kill":            {nil, syscall.SIGKILL},
		"kill-limit":      {[]string{"--cpu-period", "50000", "--cpu-quota", "40000"}, syscall.SIGKILL},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := "throttle-" + name
			s := stormy(t, r, id, c.flags...)
			limit := limitOrSkip(t, r.a, id)
			to := startAgent(t, r.b)
			// slower, so that it does not come to an end before this is noticed
			m := send(t, r.a, id, to, append(slices.Clone(throttled), "--bandwidth", "40mbit")...)
			eventually(t, later, "the container is slowed down", func() bool { l := cpuLimit(t, r.a, id); return l != limit && l != "" || m.ended() })
			if m.ended() {
				t.Fatalf("it was never slowed down:\n%s", clip(m.stderr.String()))
			}
			m.signal(t, c.sig)
			if c.sig == syscall.SIGKILL {
				m.wait(t, soon)
			} else {
				m.failed(t, 130, "runs on at the source")
			}
			eventually(t, soon, "the container has its CPU time back", func() bool { return cpuLimit(t, r.a, id) == limit })
			if c.sig == syscall.SIGKILL { // the next agent takes away the lock
				s.progressing(t)
				assertClean(t, r.b, id)
			} else {
				s.assertStayed(t, r.a, r.b)
			}
			s.finish(t)
		})
	}
}
