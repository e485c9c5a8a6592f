package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	taskapi "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// containerds are where the containerd listens that a daemon uses whose shims do not tell: the host's, or one of the daemon's own.
func (e *Engine) containerds() []string {
	return []string{"/run/containerd/containerd.sock", filepath.Join(e.opts.ExecRoot, "containerd", "containerd.sock")}
}

// beside connects to the containerd that has the container; nil if there is none.
func (e *Engine) beside(id string) (*containerd.Client, error) {
	shims, err := local.Shims(e.opts.Namespace, id)
	if err != nil {
		return nil, err
	}
	var places []string
	for _, shim := range shims {
		places = append(places, shim.Address)
	}
	for _, address := range append(places, e.containerds()...) {
		if info, err := os.Stat(address); err != nil || info.Mode().Type() != fs.ModeSocket {
			continue
		}
		c, err := containerd.New(address, containerd.WithTimeout(connectLimit), containerd.WithDefaultNamespace(e.opts.Namespace))
		if err != nil {
			return nil, fmt.Errorf("connect to the containerd below Docker at %s: %w", address, err)
		}
		return c, nil
	}
	return nil, nil
}

// fullID finds the id of a container of that name, or id, without the daemon.
func (e *Engine) fullID(name string) (string, error) {
	files, err := filepath.Glob(filepath.Join(e.root, "containers", "*", "config.v2.json"))
	if err != nil {
		return "", fmt.Errorf("look for %s: %w", what(name), err)
	}
	for _, f := range files {
		var c struct{ ID, Name string }
		if raw, err := os.ReadFile(f); err == nil && json.Unmarshal(raw, &c) == nil && (c.ID == name || c.Name == "/"+name) {
			return c.ID, nil
		}
	}
	return "", fmt.Errorf("look for %s below %s: %w", what(name), e.root, engine.ErrNotFound)
}

// process is what containerd says of the container's task, nil if there is none.
func process(ctx context.Context, c *containerd.Client, id string) (*taskapi.Process, error) {
	resp, err := c.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return resp.Process, nil
}

// resumeBeside lets a frozen container go on without the daemon, which finds out by itself when it is there again.
func (e *Engine) resumeBeside(ctx context.Context, name string) error {
	id, err := e.fullID(name)
	if err != nil {
		return err
	}
	ctx, cancel := e.call(ctx, tryLimit)
	defer cancel()
	c, err := e.beside(id)
	if err != nil {
		return err
	}
	if c == nil {
		return fmt.Errorf("resume %s: the daemon is away, and there is no containerd below it", what(name))
	}
	defer c.Close()
	_, err = c.TaskService().Resume(ctx, &tasks.ResumeTaskRequest{ContainerID: id})
	if err == nil {
		e.log.Info("resumed beside the daemon", "container", name)
		return nil
	}
	p, perr := process(ctx, c, id)
	switch {
	case perr != nil:
		return fmt.Errorf("resume %s beside the daemon: %w", what(name), perr)
	case p == nil || p.Status == taskapi.Status_STOPPED:
		return fmt.Errorf("resume %s: %w", what(name), engine.ErrNotRunning)
	case p.Status == taskapi.Status_RUNNING:
		return e.freezer(id).Thaw() // nobody has told the shim of the freeze
	}
	return fmt.Errorf("resume %s beside the daemon: %w", what(name), errgrpc.ToNative(err))
}

// endBeside kills what is left of a container that the daemon does not count as running, as one that was killed itself while it started the
// container leaves it, and takes away what containerd has of it. It is one round, to be repeated until nothing is left.
func (e *Engine) endBeside(ctx context.Context, id string) (gone bool, err error) {
	state := filepath.Join(e.runtimeRoot(id), id)
	shims, err := local.Shims(e.opts.Namespace, id)
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(state); len(shims) == 0 && errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	e.killProcesses(id)
	c, err := e.beside(id)
	if err != nil {
		return false, err
	}
	if c != nil {
		defer c.Close()
		if gone, err := dropTask(ctx, c, id); !gone {
			return false, err
		}
	}
	// what containerd does not know of, or gets no answer from: a shim waits for ever to hand the container's output to a daemon that has died. After
	// one that has ended containerd cleans up.
	for _, shim := range shims {
		_ = unix.Kill(shim.Pid, unix.SIGKILL)
	}
	return len(shims) == 0, local.RemoveRestoreRoot(state)
}

// killProcesses kills all processes of the container that runc knows of, frozen or not.
func (e *Engine) killProcesses(id string) {
	state, err := local.ReadRuncState(e.runtimeRoot(id), id)
	if err != nil {
		return
	}
	pids, _ := state.Pids() // those that are left, if any
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL) // it may be gone
	}
}

// dropTask kills or deletes containerd's task, whatever state it is in. One whose shim does not answer counts as gone.
func dropTask(ctx context.Context, c *containerd.Client, id string) (gone bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryLimit)
	defer cancel()
	p, err := process(ctx, c, id)
	if errors.Is(err, context.DeadlineExceeded) || p == nil || p.Status == taskapi.Status_UNKNOWN {
		return err == nil || ctx.Err() != nil, err
	} else if err != nil {
		return false, err
	}
	if p.Status == taskapi.Status_STOPPED || p.Status == taskapi.Status_CREATED && p.Pid == 0 {
		_, err := c.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
		err = errgrpc.ToNative(err)
		return err == nil || errdefs.IsNotFound(err), err
	}
	_, err = c.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(syscall.SIGKILL), All: true})
	return false, errgrpc.ToNative(err)
}

// forgetBeside deletes containerd's record of a container that was ended. The daemon has done that, unless it was killed before.
func (e *Engine) forgetBeside(ctx context.Context, id string) error {
	c, err := e.beside(id)
	if err != nil || c == nil {
		return err
	}
	defer c.Close()
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	if err := c.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete containerd's record of %s: %w", what(id), err)
	}
	return nil
}

// freezer is that of the container's cgroup.
func (e *Engine) freezer(id string) *criu.Freezer {
	state, err := local.ReadRuncState(e.runtimeRoot(id), id)
	if err != nil {
		return criu.NewFreezer("")
	}
	return criu.NewFreezer(state.Freezer())
}

// frozen says whether the container's processes stand still, whatever the daemon believes.
func (e *Engine) frozen(id string) bool {
	is, err := e.freezer(id).Frozen()
	return err == nil && is
}

// incarnation tells one run of the daemon from the next; "" if it does not tell.
func (e *Engine) incarnation() string {
	info, err := os.Stat(e.opts.PidFile)
	if err != nil {
		return ""
	}
	return info.ModTime().Format(time.RFC3339Nano)
}
