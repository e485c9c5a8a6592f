package containerd

import (
	"context"
	"errors"
	"fmt"

	"migrate/internal/cni"
	"migrate/internal/engine"
)

// Adopt implements engine.Engine. The restart monitor sees the container from here on. An image record that another
// migration made and took back while this one counted on it is made again.
func (e *Engine) Adopt(ctx context.Context, c *engine.Container) error {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	record, err := e.record(ctx, c.ID)
	if err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	record.Spec = rawAny{specType, c.Spec}
	record.Labels = adoptedLabels(c.Labels)
	if _, err := e.client.ContainerService().Update(ctx, record, "spec", "labels"); err != nil {
		return fmt.Errorf("adopt %s: %w", e.what(c.ID), err)
	}
	if _, err := e.createImage(ctx, record.Image, c.Image); err != nil {
		return fmt.Errorf("adopt %s: %w", e.what(c.ID), err)
	}
	if !c.Network.Unnamed {
		return nil
	}
	// its processes keep the namespace, as they did at the source, and it ends with them
	if err := errors.Join(validNetwork(c.Network), cni.RemoveNamespace(c.Network.NetNS)); err != nil {
		return fmt.Errorf("adopt %s: %w", e.what(c.ID), err)
	}
	return nil
}
