package docker

import (
	"context"
	"fmt"

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
	if err := e.setPolicy(ctx, r.ID, policy); err != nil {
		return fmt.Errorf("give %s its restart policy: %w", what(c.ID), err)
	}
	if ended(r) && restarts(policy, r) { // before the policy was in force
		return e.revive(ctx, r.ID)
	}
	return nil
}
