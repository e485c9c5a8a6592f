package containerd

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/api/services/tasks/v1"
	taskapi "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"migrate/internal/engine"
)

// record fetches the container's record.
func (e *Engine) record(ctx context.Context, id string) (containers.Container, error) {
	record, err := e.client.ContainerService().Get(ctx, id)
	switch {
	case errdefs.IsNotFound(err):
		return record, fmt.Errorf("%s: %w: see `ctr -n %s containers list`", e.what(id), engine.ErrNotFound, e.opts.Namespace)
	case err != nil:
		return record, fmt.Errorf("look up %s: %w", e.what(id), err)
	}
	return record, nil
}

// process asks for the container's init process. nil without an error means that there is no task.
func (e *Engine) process(ctx context.Context, id string) (*taskapi.Process, error) {
	resp, err := e.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if err != nil {
		err = errgrpc.ToNative(err)
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("ask for the task of %s: %w", e.what(id), err)
	}
	return resp.Process, nil
}

// status translates containerd's.
func status(p *taskapi.Process) engine.Status {
	if p == nil {
		return engine.StatusStopped
	}
	switch p.Status {
	case taskapi.Status_RUNNING:
		return engine.StatusRunning
	case taskapi.Status_PAUSED, taskapi.Status_PAUSING:
		return engine.StatusPaused
	case taskapi.Status_CREATED:
		return engine.StatusCreated
	}
	return engine.StatusStopped
}

// checkRunning turns a status that cannot be moved into its error.
func (e *Engine) checkRunning(id string, s engine.Status) error {
	switch s {
	case engine.StatusRunning:
		return nil
	case engine.StatusPaused:
		return fmt.Errorf("%s is paused, and stays what its owner made it: resume it first: %w", e.what(id), engine.ErrPaused)
	case engine.StatusCreated:
		return fmt.Errorf("%s was created but never started: start it first: %w", e.what(id), engine.ErrNotRunning)
	}
	return fmt.Errorf("%s is stopped: start it first: %w", e.what(id), engine.ErrNotRunning)
}
