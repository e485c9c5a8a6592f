//go:build inhost

package docker

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"migrate/internal/engine"
)

// shielded is a running container with the restart policy always, whose policy is turned off. again is the engine that comes after one that died.
func shielded(t *testing.T) (b *bench, id string, again *Engine) {
	t.Helper()
	b = newBench(t, "host")
	pid := filepath.Join(t.TempDir(), "docker.pid")
	check(t, os.WriteFile(pid, nil, 0o600))
	b.src.opts.PidFile = pid
	id = b.start(t, engine.StatusRunning)
	_, err := b.src.Shield(t.Context(), id)
	check(t, err)
	if got := b.policy(t, id); got != "no" {
		t.Fatalf("the restart policy of a shielded container is %q", got)
	}
	return b, id, open(t, b.src.opts)
}

func (b *bench) policy(t *testing.T, id string) string {
	t.Helper()
	r, err := b.src.look(t.Context(), id)
	check(t, err)
	return string(r.HostConfig.RestartPolicy.Name)
}

// expect looks at what became of a shielded container, and whether its note is gone.
func (b *bench) expect(t *testing.T, id string, s engine.Status, policy string) {
	t.Helper()
	r, err := b.src.look(t.Context(), id)
	check(t, err)
	if got := status(r.State); got != s || b.policy(t, id) != policy {
		t.Errorf("the container is %s, its restart policy %q, want %s and %q", got, b.policy(t, id), s, policy)
	}
	notes, err := b.src.shields()
	check(t, err)
	if (len(notes) == 0) != (policy != "no") {
		t.Errorf("notes are %+v", notes)
	}
}

// An agent that died with its guard has left the container without its restart policy: the next one gives it back.
func TestShieldIsReclaimed(t *testing.T) {
	t.Run("running", func(t *testing.T) {
		b, id, again := shielded(t)
		_, unlock, err := again.Lock(t.Context(), id)
		check(t, err)
		check(t, unlock(t.Context()))
		b.expect(t, id, engine.StatusRunning, "always")
	})
	t.Run("paused", func(t *testing.T) {
		b, id, again := shielded(t)
		check(t, b.src.Doubt(t.Context(), id))
		check(t, b.src.Pause(t.Context(), id))
		check(t, again.Reclaim(t.Context()))
		b.expect(t, id, engine.StatusPaused, "no")
		check(t, again.Resume(t.Context(), id))
		b.expect(t, id, engine.StatusRunning, "always")
	})
	t.Run("ended with the daemon", func(t *testing.T) {
		b, id, again := shielded(t)
		run(t, "docker", "kill", id)
		check(t, os.Chtimes(b.src.opts.PidFile, time.Time{}, time.Now().Add(time.Minute)))
		check(t, again.Reclaim(t.Context()))
		b.expect(t, id, engine.StatusRunning, "always")
	})
	t.Run("ended in doubt", func(t *testing.T) {
		b, id, again := shielded(t)
		check(t, b.src.Doubt(t.Context(), id))
		run(t, "docker", "kill", id)
		check(t, os.Chtimes(b.src.opts.PidFile, time.Time{}, time.Now().Add(time.Minute)))
		check(t, again.Reclaim(t.Context()))
		b.expect(t, id, engine.StatusStopped, "no")
		run(t, "docker", "start", id) // by somebody who knows
		check(t, again.Reclaim(t.Context()))
		b.expect(t, id, engine.StatusRunning, "always")
	})
	t.Run("stopped by hand", func(t *testing.T) {
		b, id, again := shielded(t)
		run(t, "docker", "kill", id)
		check(t, again.Unshield(t.Context(), id))
		b.expect(t, id, engine.StatusStopped, "always")
	})
	t.Run("killed", func(t *testing.T) {
		b, id, again := shielded(t)
		r, err := b.src.look(t.Context(), id)
		check(t, err)
		b.src.killProcesses(r.ID)
		for range 200 {
			if r, err = b.src.look(t.Context(), id); err != nil || !r.State.Running {
				break
			}
			time.Sleep(killPoll)
		}
		check(t, again.Unshield(t.Context(), id))
		b.expect(t, id, engine.StatusRunning, "always")
	})
	t.Run("removed", func(t *testing.T) {
		b, id, again := shielded(t)
		run(t, "docker", "rm", "--force", id)
		check(t, again.Reclaim(t.Context()))
		if notes, err := b.src.shields(); err != nil || len(notes) > 0 {
			t.Errorf("notes are %+v, %v", notes, err)
		}
	})
	t.Run("another host's", func(t *testing.T) {
		b, id, _ := shielded(t)
		check(t, b.src.Pause(t.Context(), id))
		check(t, b.src.Forsake(t.Context(), id))
		check(t, b.src.Retire(t.Context(), id, true))
		if notes, err := b.src.shields(); err != nil || len(notes) > 0 || b.policy(t, id) != "no" {
			t.Errorf("notes are %+v, %v, the restart policy %q", notes, err, b.policy(t, id))
		}
	})
}

// A container goes on also while the daemon is away, and when the daemon does not know that it has paused it.
func TestResumeBesideTheDaemon(t *testing.T) {
	b := newBench(t, "host")
	alone := b.src.opts
	alone.Socket, alone.Unasked = "/run/no-such-socket", true
	e := open(t, alone)
	id := b.start(t, engine.StatusRunning)
	check(t, b.src.Pause(t.Context(), id))
	check(t, e.Resume(t.Context(), id))
	check(t, e.Resume(t.Context(), id))
	r, err := b.src.look(t.Context(), id)
	check(t, err)
	if b.src.frozen(r.ID) {
		t.Error("the container is frozen still")
	}
	for range 200 {
		if r, err = b.src.look(t.Context(), id); err != nil || !r.State.Paused {
			break
		}
		time.Sleep(killPoll)
	}
	if r.State.Paused {
		t.Error("the daemon believes that the container is paused")
	}
	state, err := os.ReadFile("/proc/self/cgroup")
	check(t, err)
	t.Logf("cgroups: %s", state)
	check(t, b.src.freezer(r.ID).Freeze())
	check(t, b.src.Resume(t.Context(), id))
	if b.src.frozen(r.ID) {
		t.Error("a container that the daemon does not know to be frozen is so still")
	}
	if err := e.Resume(t.Context(), "no-such-container"); err == nil {
		t.Error("resumed nothing")
	}
}
