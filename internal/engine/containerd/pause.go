package containerd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"migrate/internal/engine"
)

// Pause implements engine.Engine.
func (e *Engine) Pause(ctx context.Context, id string) error {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	_, err := e.client.TaskService().Pause(ctx, &tasks.PauseTaskRequest{ContainerID: id})
	if err == nil {
		return nil
	}
	cause := errgrpc.ToNative(err)
	if strings.Contains(cause.Error(), unableToFreeze) {
		cause = fmt.Errorf("%w: %w", engine.ErrBusy, cause)
	}
	return e.settled(ctx, id, "pause", engine.StatusPaused, cause)
}

// unableToFreeze is what runc says when the freezer of version 1 does not get hold of all tasks in time (opencontainers/cgroups,
// fs/freezer.go); it thaws those that it got then.
const unableToFreeze = "unable to freeze"

// Resume implements engine.Engine. A container that has died meanwhile is left to the restart monitor.
func (e *Engine) Resume(ctx context.Context, id string) error {
	err := e.resume(ctx, id)
	if err == nil || errors.Is(err, engine.ErrNotRunning) {
		err = errors.Join(err, e.unshield(ctx, id))
	}
	return err
}

func (e *Engine) resume(ctx context.Context, id string) error {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	_, err := e.client.TaskService().Resume(ctx, &tasks.ResumeTaskRequest{ContainerID: id})
	if err == nil {
		return nil
	}
	return e.settled(ctx, id, "resume", engine.StatusRunning, errgrpc.ToNative(err))
}

// settled looks after a refusal whether the container is what it was to become: runc refuses to do a thing twice.
func (e *Engine) settled(ctx context.Context, id, verb string, want engine.Status, cause error) error {
	if _, err := e.record(ctx, id); err != nil {
		return err
	}
	p, err := e.process(ctx, id)
	if err != nil {
		return err
	}
	switch s := status(p); s {
	case want:
		return nil
	case engine.StatusStopped, engine.StatusCreated:
		return fmt.Errorf("%s %s: %w", verb, e.what(id), engine.ErrNotRunning)
	default:
		return fmt.Errorf("%s %s, which is %s: %w", verb, e.what(id), s, cause)
	}
}
