package containerd

import (
	"context"
	"os"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// Lock implements engine.Engine.
func (e *Engine) Lock(ctx context.Context, id string) (*os.File, engine.Undo, error) {
	if err := validName("container id", id); err != nil {
		return nil, nil, err
	}
	return local.Lock(ctx, e.opts.LockDir, Name+"-"+e.opts.Namespace+"-"+id, e.what(id))
}
