package shim

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// TestHeldUntilStart restores a task, which is there when create returns, and runs when start does.
func TestHeldUntilStart(t *testing.T) {
	b := newBench(t, "")
	spec, _ := os.ReadFile(filepath.Join(b.stock.bundle, "config.json"))
	pid := b.held(t)
	b.events.want(t, pid, "create")
	if c, err := b.Connect(t.Context(), &taskAPI.ConnectRequest{ID: taskID}); err != nil || c.TaskPid != pid {
		t.Errorf("connect: %+v, %v", c, err)
	}
	b.state(t, task.Status_CREATED)
	if _, err := b.Exec(t.Context(), &taskAPI.ExecProcessRequest{ID: taskID}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		t.Errorf("exec in a held task: %v", err)
	}
	if _, err := b.Checkpoint(t.Context(), &taskAPI.CheckpointTaskRequest{ID: taskID}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		t.Errorf("checkpoint of a held task: %v", err)
	}
	if _, err := readResidue(b.stock.bundle); err != nil {
		t.Error(err)
	}
	started, err := b.Start(t.Context(), &taskAPI.StartRequest{ID: taskID})
	if err != nil || started.Pid != pid {
		t.Fatalf("start: %+v, %v", started, err)
	}
	b.events.want(t, pid, "create", "start")
	if after, _ := os.ReadFile(filepath.Join(b.stock.bundle, "config.json")); string(after) != string(spec) {
		t.Errorf("the specification is now %s", after)
	}
	if _, err := readResidue(b.stock.bundle); !os.IsNotExist(err) && !strings.Contains(err.Error(), "no such file") {
		t.Errorf("the note of the restore is still there: %v", err)
	}
	if _, err := b.Wait(t.Context(), &taskAPI.WaitRequest{ID: taskID}); err == nil || !strings.Contains(err.Error(), "asked the stock") {
		t.Errorf("wait: %v", err)
	}
	if !runs(int(pid)) {
		t.Error("the task does not run")
	}
}

func (b *bench) state(t *testing.T, want task.Status) {
	t.Helper()
	s, err := b.State(t.Context(), &taskAPI.StateRequest{ID: taskID})
	if err != nil || s.Status != want || int(s.Pid) != b.stock.task() {
		t.Errorf("state: %+v, %v, want %v", s, err, want)
	}
}

// TestDeathInTheHold kills each of the processes that a held restore needs: the task ends, which is told once.
func TestDeathInTheHold(t *testing.T) {
	for name, who := range map[string]func(*restore) *process{
		"first process": func(r *restore) *process { return r.init },
		"CRIU":          func(r *restore) *process { return r.criu },
		"runc":          func(r *restore) *process { return r.runtime },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, "")
			pid := b.held(t)
			r := b.of(taskID, "")
			all := r.processes()
			who(r).kill()
			b.endsAs(t, pid, killed)
			for _, p := range all {
				if !dead(p.Pid) {
					t.Errorf("process %d is left", p.Pid)
				}
			}
		})
	}
}

// endsAs checks that a held restore has come to nothing, and deletes the task.
func (b *bench) endsAs(t *testing.T, pid, status uint32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if w, err := b.Wait(ctx, &taskAPI.WaitRequest{ID: taskID}); err != nil || w.ExitStatus != status {
		t.Errorf("wait: %+v, %v, want status %d", w, err, status)
	}
	b.state(t, task.Status_STOPPED)
	if !dead(int(pid)) {
		t.Error("the task runs")
	}
	b.events.want(t, pid, "create", "exit")
	if _, err := b.Start(t.Context(), &taskAPI.StartRequest{ID: taskID}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		t.Errorf("start: %v", err)
	}
	b.deleted(t, pid, status)
	b.events.want(t, pid, "create", "exit", "delete")
}

func (b *bench) deleted(t *testing.T, pid, status uint32) {
	t.Helper()
	d, err := b.Delete(t.Context(), &taskAPI.DeleteRequest{ID: taskID})
	if err != nil || d.Pid != pid || d.ExitStatus != status || b.stock.deleted != 1 {
		t.Errorf("delete: %+v, %v, the stock service was asked %d times", d, err, b.stock.deleted)
	}
	if b.of(taskID, "") != nil {
		t.Error("the restore is still known")
	}
}

// TestKillInTheHold kills a held task by its signal.
func TestKillInTheHold(t *testing.T) {
	b := newBench(t, "")
	pid := b.held(t)
	if _, err := b.Kill(t.Context(), &taskAPI.KillRequest{ID: taskID, Signal: 15}); err != nil {
		t.Fatal(err)
	}
	b.endsAs(t, pid, 128+15)
}

// TestDeleteInTheHold deletes a held task, as engines do when they cannot connect it.
func TestDeleteInTheHold(t *testing.T) {
	b := newBench(t, "")
	pid := b.held(t)
	b.deleted(t, pid, killed)
	if !dead(int(pid)) {
		t.Error("the task runs")
	}
	b.events.want(t, pid, "create", "exit", "delete")
}

// TestCreateFails lets restores fail before they are held: create says why, and nobody hears of the task otherwise.
func TestCreateFails(t *testing.T) {
	for name, c := range map[string]struct {
		script, want string
		deaf         bool
	}{
		"CRIU fails":     {"kill -9 $init; exit 1", "Can't open file 13", false},
		"it is not held": {"", "org.criu.config", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, c.script)
			b.stock.deaf = c.deaf
			if !c.deaf {
				work := filepath.Join(b.stock.bundle, "work")
				if err := os.Mkdir(work, 0o700); err != nil {
					t.Fatal(err)
				}
				writeFile(t, filepath.Join(work, "restore.log"), "(00.01) Error (criu/files.c:1): Can't open file 13\n")
			}
			_, err := b.create(t)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("create: %v, want %q", err, c.want)
			}
			if pid := b.stock.task(); pid == 0 || !dead(pid) {
				t.Errorf("the task %d runs", pid)
			}
			if b.stock.deleted != 1 || b.of(taskID, "") != nil {
				t.Errorf("the task is still there: deleted %d times", b.stock.deleted)
			}
			b.events.want(t, 0)
		})
	}
}

// TestCreateIsCancelled ends a restore whose caller has gone while CRIU hangs.
func TestCreateIsCancelled(t *testing.T) {
	b := newBench(t, "sleep 1000")
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(t.Context(), namespace), 300*time.Millisecond)
	defer cancel()
	if _, err := b.Create(ctx, &taskAPI.CreateTaskRequest{ID: taskID, Bundle: b.stock.bundle, Checkpoint: "/images"}); err == nil {
		t.Error("created")
	}
	if pid := b.stock.task(); pid == 0 || !dead(pid) {
		t.Errorf("the task %d runs", pid)
	}
	b.events.want(t, 0)
}

// TestStartFails lets restores fail after they were let go: start says so, and no exit is told, which Docker would take for the end of a
// container that it may have started anew by then.
func TestStartFails(t *testing.T) {
	for name, after := range map[string]string{
		"CRIU fails":                             "|kill -9 $init; exit 1",
		"CRIU is killed, and the task would run": "|kill -9 $$",
		"CRIU waits for a task that was killed":  "|kill -9 $init; sleep 1000",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, after)
			pid := b.held(t)
			if _, err := b.Start(t.Context(), &taskAPI.StartRequest{ID: taskID}); err == nil {
				t.Error("started")
			}
			if !dead(int(pid)) {
				t.Error("the task runs")
			}
			b.state(t, task.Status_STOPPED)
			b.deleted(t, pid, killed)
			b.events.want(t, pid, "create", "delete")
		})
	}
}

// TestKillAfterRelease kills a task while it is being restored, which nobody may see to the end.
func TestKillAfterRelease(t *testing.T) {
	b := newBench(t, "|sleep 1000")
	pid := b.held(t)
	failed := make(chan error, 1)
	go func() {
		_, err := b.Start(context.Background(), &taskAPI.StartRequest{ID: taskID})
		failed <- err
	}()
	for b.of(taskID, "").now() != released {
		time.Sleep(time.Millisecond)
	}
	b.state(t, task.Status_CREATED)
	if _, err := b.Delete(t.Context(), &taskAPI.DeleteRequest{ID: taskID}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		t.Errorf("delete: %v", err)
	}
	if _, err := b.Kill(t.Context(), &taskAPI.KillRequest{ID: taskID, Signal: 9}); err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil {
		t.Error("started")
	}
	if !dead(int(pid)) {
		t.Error("the task runs")
	}
}

// TestOtherTasks leaves tasks alone that have no checkpoint, also where a restore of the same name has failed.
func TestOtherTasks(t *testing.T) {
	b := newBench(t, "exit 1")
	if _, err := b.create(t); err == nil {
		t.Fatal("created")
	}
	ctx := namespaces.WithNamespace(t.Context(), namespace)
	if _, err := b.Create(ctx, &taskAPI.CreateTaskRequest{ID: taskID, Bundle: b.stock.bundle}); err != nil {
		t.Fatal(err)
	}
	e := &eventstypes.TaskExit{ContainerID: taskID}
	if err := b.service.events.Publish(ctx, runtime.GetTopic(e), e); err != nil {
		t.Fatal(err)
	}
	b.events.want(t, 0, "create", "exit")
}
