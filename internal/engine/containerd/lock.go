package containerd

import (
	"context"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// Lock implements engine.Engine.
func (e *Engine) Lock(ctx context.Context, id string) (engine.Undo, error) {
	if err := validName("container id", id); err != nil {
		return nil, err
	}
	return local.Lock(ctx, e.opts.LockDir, Name+"-"+e.opts.Namespace+"-"+id, e.what(id))
}
