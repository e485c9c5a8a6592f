package containerd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrate/internal/cni"
	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// SetupNetwork implements engine.Engine. With the modes none and host there is nothing to set up, and lock is not
// called: a namespace that the runtime makes exists only once the task does.
func (e *Engine) SetupNetwork(ctx context.Context, c *engine.Container, lock func(netns string) error) (engine.Undo, error) {
	if err := validNetwork(c.Network); err != nil {
		return nil, err
	}
	if c.Network.Mode != engine.NetworkCNI {
		return local.Nothing, nil
	}
	began := time.Now()
	undo := local.Once(e.dropNetwork(c.Network))
	if err := cni.NewNamespace(c.Network.NetNS); errors.Is(err, cni.ErrInUse) {
		return nil, fmt.Errorf("set up network of %s: %w", e.what(c.ID), taken(err))
	} else if err != nil {
		return nil, fmt.Errorf("set up network of %s: %w", e.what(c.ID), err)
	}
	if err := e.fillNetwork(ctx, c.Network, lock); err != nil {
		err = fmt.Errorf("set up network of %s: %w", e.what(c.ID), err)
		return nil, errors.Join(err, undo(context.WithoutCancel(ctx)))
	}
	e.log.Info("network ready", "container", c.ID, "netns", c.Network.NetNS, "took", time.Since(began))
	return undo, nil
}

func (e *Engine) fillNetwork(ctx context.Context, n engine.Network, lock func(netns string) error) error {
	if lock != nil {
		if err := lock(n.NetNS); err != nil {
			return fmt.Errorf("lock %s: %w", n.NetNS, err)
		}
	}
	err := cni.WithoutDAD(n.NetNS, func() error {
		for _, a := range n.Attachments {
			if err := e.cni.Attach(ctx, n.NetNS, hostAttachment(a)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return cni.SetSysctls(n.NetNS, n.Sysctls)
}

// dropNetwork also frees what a half-done attachment reserved.
func (e *Engine) dropNetwork(n engine.Network) engine.Undo {
	return func(ctx context.Context) error {
		var errs []error
		for _, a := range n.Attachments {
			errs = append(errs, e.cni.Detach(ctx, n.NetNS, hostAttachment(a)))
		}
		errs = append(errs, cni.RemoveNamespace(n.NetNS))
		return errors.Join(errs...)
	}
}
