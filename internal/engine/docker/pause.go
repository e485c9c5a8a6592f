package docker

import (
	"context"
	"fmt"
	"strings"

	"github.com/moby/moby/client"

	"migrate/internal/engine"
)

// Pause implements engine.Engine.
func (e *Engine) Pause(ctx context.Context, id string) error {
	cctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	_, err := e.api.ContainerPause(cctx, id, client.ContainerPauseOptions{})
	if err == nil {
		return nil
	}
	if strings.Contains(err.Error(), unableToFreeze) {
		err = fmt.Errorf("%w: %w", engine.ErrBusy, err)
	}
	return e.settled(ctx, id, "pause", engine.StatusPaused, err)
}

// unableToFreeze is what runc says when the freezer of version 1 does not get hold of all tasks in time.
const unableToFreeze = "unable to freeze"

// Resume implements engine.Engine.
func (e *Engine) Resume(ctx context.Context, id string) error {
	cctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	_, err := e.api.ContainerUnpause(cctx, id, client.ContainerUnpauseOptions{})
	if err == nil {
		return nil
	}
	return e.settled(ctx, id, "resume", engine.StatusRunning, err)
}

// settled looks after a refusal whether the container is what it was to become.
func (e *Engine) settled(ctx context.Context, id, verb string, want engine.Status, cause error) error {
	c, err := e.look(ctx, id)
	if err != nil {
		return err
	}
	switch s := status(c.State); s {
	case want:
		return nil
	case engine.StatusStopped, engine.StatusCreated:
		return fmt.Errorf("%s %s: %w", verb, what(id), engine.ErrNotRunning)
	default:
		return fmt.Errorf("%s %s, which is %s: %w", verb, what(id), s, cause)
	}
}
