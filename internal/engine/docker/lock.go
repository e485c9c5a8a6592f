package docker

import (
	"context"
	"errors"
	"os"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// Lock implements engine.Engine. A container is locked by its full id, however it is named. What an earlier migration has left of its shield is
// ended here, before anybody looks at the restart policy.
func (e *Engine) Lock(ctx context.Context, id string) (*os.File, engine.Undo, error) {
	c, err := e.look(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	held, unlock, err := local.Lock(ctx, e.opts.LockDir, Name+"-"+c.ID, what(id))
	if err != nil {
		return nil, nil, err
	}
	if err := e.reclaim(ctx, c.ID); err != nil {
		return nil, nil, errors.Join(err, unlock(context.WithoutCancel(ctx)))
	}
	return held, unlock, nil
}
