package containerd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"migrate/internal/cni"
	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// PrepareTask implements engine.Engine. cp.Stdio is followed as it is, binary loggers included: what of a peer's wishes
// gets there is the caller's to decide.
func (e *Engine) PrepareTask(ctx context.Context, c *engine.Container, cp engine.Checkpoint) (engine.Undo, error) {
	ctx, cancel := e.call(ctx, createLimit)
	defer cancel()
	began := time.Now()
	container, err := e.client.LoadContainer(ctx, c.ID)
	if err != nil {
		return nil, fmt.Errorf("prepare the task of %s: %w", e.what(c.ID), err)
	}
	streams := e.streams(c.ID, cp.Stdio)
	stop, err := e.makeStreams(ctx, c.ID, streams)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the task of %s: %w", e.what(c.ID), err), e.removeStreams(c.ID))
	}
	drop := e.dropTask(c.ID)
	undo := local.Once(func(ctx context.Context) error {
		err := drop(ctx)
		if err == nil {
			stop()
		}
		return err
	})
	if err := e.createTask(ctx, container, c.Runtime, cp, streams); err != nil {
		err = fmt.Errorf("prepare the task of %s: %w", e.what(c.ID), err)
		return nil, errors.Join(err, undo(context.WithoutCancel(ctx)))
	}
	e.log.Info("task created", "container", c.ID, "took", time.Since(began))
	return undo, nil
}

func (e *Engine) newTask(ctx context.Context, c client.Container, cp engine.Checkpoint, streams cio.Config) error {
	create := func(string) (cio.IO, error) { return handed{streams}, nil }
	_, err := c.NewTask(ctx, create, client.WithRestoreImagePath(cp.ImagePath), client.WithRestoreWorkPath(cp.WorkPath))
	return err
}

// dropTask finds runc's state at the usual place: safeRuntimeOptions lets nobody choose another.
func (e *Engine) dropTask(id string) engine.Undo {
	return func(ctx context.Context) error {
		e.takeWaiting(id)
		if err := e.removeTask(ctx, id, e.runtimeRoot(&options.Options{})); err != nil {
			return err
		}
		return e.removeStreams(id)
	}
}

// StartTask implements engine.Engine. With a shim that restores in create, the task is created first. When ctx ends it returns at once. The shim then kills runc, but not CRIU, which
// goes on with the restore: the caller makes its hook fail before it runs the undo of PrepareTask, which tidies up.
func (e *Engine) StartTask(ctx context.Context, c *engine.Container) (int, error) {
	began := time.Now()
	if err := e.createWaiting(e.unlimited(ctx), c.ID); err != nil {
		return 0, err
	}
	resp, err := e.client.TaskService().Start(e.unlimited(ctx), &tasks.StartRequest{ContainerID: c.ID})
	if err != nil {
		return 0, fmt.Errorf("start %s from its checkpoint: %w", e.what(c.ID), errgrpc.ToNative(err))
	}
	pid := int(resp.Pid)
	e.log.Info("task restored", "container", c.ID, "pid", pid, "took", time.Since(began))
	if c.Network.Mode == engine.NetworkNone {
		e.finishOwnNetwork(c, pid)
	}
	return pid, nil
}

// finishOwnNetwork gives a namespace that the runtime made what CRIU does not: runc has it restore an empty one. The
// container runs by now, so a failure is told and no more.
func (e *Engine) finishOwnNetwork(c *engine.Container, pid int) {
	path := procNetNS(pid)
	if err := errors.Join(cni.LoopbackUp(path), cni.SetSysctls(path, c.Network.Sysctls)); err != nil {
		e.log.Warn("network namespace is not as it was", "container", c.ID, "err", err)
	}
}
