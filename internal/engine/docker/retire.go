package docker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"migrate/internal/engine"
)

// killPoll is how often a container that was killed is looked at; tryLimit bounds one question to a daemon that may be busy with it.
const (
	killPoll = 20 * time.Millisecond
	tryLimit = 3 * time.Second
)

// Forsake implements engine.Engine. A policy that Shield has turned off stays so; the daemon need not be there for that.
func (e *Engine) Forsake(ctx context.Context, id string) error {
	if s, err := e.shieldOf(id); err != nil || s != nil {
		return err
	}
	r, err := e.look(ctx, id)
	if errors.Is(err, engine.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if r.HostConfig.RestartPolicy.IsNone() || r.HostConfig.AutoRemove {
		return nil
	}
	if err := e.setPolicy(ctx, r.ID, container.RestartPolicy{Name: container.RestartPolicyDisabled}); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("turn off the restart policy of %s: %w", what(id), err)
	}
	return nil
}

// Retire implements engine.Engine. A container that is kept has no restart policy any more, so that nobody starts it by mistake.
// Volumes stay.
func (e *Engine) Retire(ctx context.Context, id string, keep bool) error {
	r, err := e.look(ctx, id)
	if errors.Is(err, engine.ErrNotFound) {
		return e.dropShield(id)
	} else if err != nil {
		return err
	}
	if err := e.Forsake(ctx, r.ID); err != nil {
		return err
	}
	if err := e.end(ctx, r.ID); err != nil {
		return err
	}
	if !keep {
		if err := e.remove(r.ID)(ctx); err != nil {
			return err
		}
	}
	return e.dropShield(r.ID)
}

// dropShield leaves the restart policy turned off for good.
func (e *Engine) dropShield(id string) error {
	s, err := e.shieldOf(id)
	if err != nil || s == nil {
		return err
	}
	return s.remove()
}

// end kills all processes of the container, frozen or not, and returns when the daemon knows. A container that is gone is no error.
func (e *Engine) end(ctx context.Context, id string) error {
	ctx, cancel := e.call(ctx, killLimit)
	defer cancel()
	for {
		gone, err := e.tryEnd(ctx, id)
		if gone {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end %s: %w (last: %v): see `docker ps -a`", what(id), ctx.Err(), err)
		case <-time.After(killPoll):
		}
	}
}

// tryEnd does one round: look, then kill. Every process is killed before the daemon, for that signal, thaws them. A daemon that is away is waited
// for, but what runs is not.
func (e *Engine) tryEnd(ctx context.Context, id string) (gone bool, err error) {
	ctx, cancel := context.WithTimeout(hurried(ctx), tryLimit)
	defer cancel()
	r, err := e.look(ctx, id)
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return true, nil
	case away(err):
		_, berr := e.endBeside(context.WithoutCancel(ctx), id)
		return false, errors.Join(err, berr)
	case err != nil:
		return false, err
	}
	if !r.State.Running && !r.State.Paused && !r.State.Restarting {
		return e.endBeside(ctx, r.ID)
	}
	e.killProcesses(r.ID)
	_, err = e.api.ContainerKill(ctx, r.ID, client.ContainerKillOptions{Signal: "KILL"})
	return false, err
}

// remove deletes the container, whatever state it is in.
func (e *Engine) remove(id string) engine.Undo {
	return func(ctx context.Context) error {
		if err := e.end(ctx, id); err != nil {
			return err
		}
		if err := errors.Join(e.dropCheckpoint(id), e.forgetBeside(ctx, id)); err != nil {
			return err
		}
		ctx, cancel := e.call(ctx, killLimit)
		defer cancel()
		for {
			_, err := e.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true})
			if err == nil || errdefs.IsNotFound(err) {
				return nil
			}
			if !errdefs.IsConflict(err) { // a removal that is under way already is waited for
				return fmt.Errorf("remove %s: %w", what(id), err)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("remove %s: %w", what(id), err)
			case <-time.After(killPoll):
			}
		}
	}
}
