package docker

import (
	"context"
	"fmt"

	"github.com/moby/moby/client"

	"migrate/internal/engine"
)

// Adopt implements engine.Engine: the restart policy is in force from here on. The annotation stays, and names a file that is no
// more: the daemon has no way to take it back, CRIU ignores a file that is missing, and later moves replace it.
func (e *Engine) Adopt(ctx context.Context, c *engine.Container) error {
	o, err := decodeOptions(c)
	if err != nil {
		return err
	}
	r, err := e.look(ctx, c.ID)
	if err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	if err := e.dropCheckpoint(r.ID); err != nil {
		return fmt.Errorf("adopt %s: %w", what(c.ID), err)
	}
	policy := o.HostConfig.RestartPolicy
	if policy.IsNone() || r.HostConfig.AutoRemove {
		return nil
	}
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	if _, err := e.api.ContainerUpdate(ctx, r.ID, client.ContainerUpdateOptions{RestartPolicy: &policy}); err != nil {
		return fmt.Errorf("give %s its restart policy: %w", what(c.ID), err)
	}
	return nil
}
