package fake

import (
	"context"
	"os"

	"migrate/internal/engine"
)

// Discard implements engine.Engine.
func (e *Engine) Discard(ctx context.Context, c *engine.Container, id string) error {
	if err := e.enter(ctx, OpDiscard, id); err != nil {
		return err
	}
	e.mu.Lock()
	held := e.leases[id]
	runs := e.containers[c.ID] != nil && e.containers[c.ID].status == engine.StatusRunning
	e.mu.Unlock()
	if !held {
		return nil
	}
	if runs {
		e.world.runs(e.name, c.ID, false)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.containers, c.ID)
	os.RemoveAll(e.dirs[c.SnapshotKey])
	delete(e.dirs, c.SnapshotKey)
	delete(e.snapshots, c.SnapshotKey)
	if e.namespaces[c.Network.NetNS] {
		e.detach(c.Network)
	}
	delete(e.leases, id)
	return nil
}

// Release implements engine.Engine.
func (e *Engine) Release(ctx context.Context, id string) error {
	if err := e.enter(ctx, OpRelease, id); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.leases, id)
	return nil
}
