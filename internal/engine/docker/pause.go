package docker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/client"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// Pause implements engine.Engine. Health checks and docker-exec(1) have processes in the container that do not descend from its
// first one: a dump would leave them out. The container goes on then, to be paused again when they have ended.
func (e *Engine) Pause(ctx context.Context, id string) error {
	cctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	_, err := e.api.ContainerPause(cctx, id, client.ContainerPauseOptions{})
	if err == nil {
		return e.alone(ctx, id)
	}
	if strings.Contains(err.Error(), unableToFreeze) {
		err = fmt.Errorf("%w: %w", engine.ErrBusy, err)
	}
	return e.settled(ctx, id, "pause", engine.StatusPaused, err)
}

// unableToFreeze is what runc says when the freezer of version 1 does not get hold of all tasks in time.
const unableToFreeze = "unable to freeze"

// alone lets a paused container go on that has guests.
func (e *Engine) alone(ctx context.Context, id string) error {
	r, err := e.look(ctx, id)
	if err != nil {
		return err
	}
	guest, err := guestOf(r.State.Pid)
	if err == nil && guest == 0 {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%w: process %d in %s belongs to a health check or to docker exec", engine.ErrBusy, guest, what(id))
	}
	return errors.Join(err, e.Resume(context.WithoutCancel(ctx), id))
}

// guestOf finds a process that the container's shim started beside the container's first one, or 0: shims take in what the runtime
// leaves, and a runtime that is still about to start something is their child, too.
func guestOf(init int) (int, error) {
	shim, err := local.Parent(init)
	if err != nil {
		return 0, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == init {
			continue
		}
		if parent, err := local.Parent(pid); err == nil && parent == shim {
			return pid, nil
		}
	}
	return 0, nil
}

// Resume implements engine.Engine. A daemon that is away, or busy with being started, is not waited for: the container goes on beside it. Its
// restart policy is put back here only by one that answers.
func (e *Engine) Resume(ctx context.Context, id string) error {
	err := e.resume(ctx, id)
	if away(err) {
		return e.resumeBeside(ctx, id)
	}
	if err == nil || errors.Is(err, engine.ErrNotRunning) {
		err = errors.Join(err, e.Unshield(ctx, id))
	}
	return err
}

func (e *Engine) resume(ctx context.Context, id string) error {
	cctx, cancel := e.call(hurried(ctx), resumeLimit)
	defer cancel()
	_, err := e.api.ContainerUnpause(cctx, id, client.ContainerUnpauseOptions{})
	if err == nil || away(err) {
		return err
	}
	if err := e.settled(cctx, id, "resume", engine.StatusRunning, err); err != nil {
		return err
	}
	// a daemon that was killed while it paused the container does not know that it has
	if full, err := e.fullID(id); err == nil && e.frozen(full) {
		return e.resumeBeside(ctx, id)
	}
	return nil
}

// resumeLimit is how long a daemon may take to let a container go on before that is done beside it.
const resumeLimit = 5 * time.Second

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
