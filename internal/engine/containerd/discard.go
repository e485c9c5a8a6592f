package containerd

import (
	"context"
	"errors"

	"migrate/internal/engine"
	"migrate/internal/engine/imagestore"
)

// Discard implements engine.Engine. The lease is made before anything else and goes last, so that without it there is
// nothing to take away, and what goes by the container's names belongs to whoever has them now.
func (e *Engine) Discard(ctx context.Context, c *engine.Container, id string) error {
	held, err := e.holds(ctx, id)
	if err != nil || !held {
		return err
	}
	if err := validContainer(c); err != nil {
		return err
	}
	steps := []engine.Undo{e.dropTask(c.ID), func(context.Context) error { return e.killStrayShim(c.ID) }, e.unregister(c.ID), e.dropSnapshot(c.Snapshotter, c.SnapshotKey)}
	if c.Network.Mode == engine.NetworkCNI {
		steps = append(steps, func(context.Context) error { return e.cni.Forget(c.Network.NetNS) }, e.dropNetwork(c.Network))
	}
	made := imagestore.Held(ctx, id)
	for _, name := range []string{c.Image.Name, digestName(c.Image)} {
		steps = append(steps, e.removeImage(made, name))
	}
	var errs []error
	for _, step := range steps {
		errs = append(errs, step(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the lease stays, for the next try
	}
	return e.Release(ctx, id)
}

// Release implements engine.Engine.
func (e *Engine) Release(ctx context.Context, id string) error {
	ctx, cancel := e.call(ctx, createLimit)
	defer cancel()
	return e.images.Release(ctx, id)
}

func (e *Engine) holds(ctx context.Context, id string) (bool, error) {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	return e.images.Holds(ctx, id)
}
