package docker

import (
	"context"
	"os"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// Lock implements engine.Engine. A container is locked by its full id, however it is named.
func (e *Engine) Lock(ctx context.Context, id string) (*os.File, engine.Undo, error) {
	c, err := e.look(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	return local.Lock(ctx, e.opts.LockDir, Name+"-"+c.ID, what(id))
}
